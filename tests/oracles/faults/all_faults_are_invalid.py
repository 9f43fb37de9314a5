"""User pages cannot be named by a kernel."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import guest_access

ORIGINAL = guest_access.translate_for


def replacement(hv, vcpu, gva, acc):
    return None if gva < 1 << 47 else ORIGINAL(hv, vcpu, gva, acc)


BUG = Bug(
    name="all-faults-are-invalid",
    replaces="hvfuzz.hypervisor.memory.guest_access:translate_for",
    replacement=replacement,
    findings=("specification/status/console.write",),
    trigger="""\
# hvp 1
world pair
console.write(dom1, text=0x400000, length=8)
sched.poll(dom1, ports=0x400000, count=1, timeout=0)
memory.exchange(dom1, gfns=0x400000, out=0x400000, count=1, start=0)
""",
)
