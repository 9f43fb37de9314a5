"""XSA-212 / CVE-2017-7228: a range check assumes that array accesses start at index 0.

Cause: `XENMEM_exchange` checked that the guest's arrays start outside the hypervisor's part of the address space, and
relied on accesses from index 0 upwards to fault before they could reach that part. But the guest also chooses the
index to continue from (`nr_exchanged`). So the first access can be at any address, and the unchecked copy that follows
writes there with the hypervisor's rights.

Simplified: the value written is the guest frame number of the exchanged page, not its machine frame number.
"""

from hvfuzz.bugs.bug import Bug
from hvfuzz.hypervisor.hypercalls.memory.exchange import Exchange
from hvfuzz.hypervisor.memory import guest_access


def array_ok(self: Exchange, base: int) -> bool:
    """Check elements 0 to count - 1 of the array instead of those from `start` on."""
    return guest_access.guest_range_ok(base, 8 * self.count)


BUG = Bug(
    name="xsa-212",
    advisory="XSA-212, CVE-2017-7228",
    title="the arrays of an exchange are checked from index 0, but used from an index that the guest chooses",
    replaces="hvfuzz.hypervisor.hypercalls.memory.exchange:Exchange.array_ok",
    replacement=array_ok,
    findings=(
        "host_memory/hole/memory.exchange",
        "host_memory/header/memory.exchange",
        "fetch/unvalidated/memory.exchange",
        "ownership/copy/memory.exchange",
        "contents/host/memory.exchange",
        "specification/status/memory.exchange",
    ),
    difficulty=3,
    story=__doc__,
    trigger="""\
# hvp 1
world pair
store(dom1, gva=0xffff880000040000, size=8, value=0x50)
memory.exchange(dom1, gfns=0x80000040000, out=0, count=1, start=0x1ffff00000000000)
""",
)
