"""A multicall reads the number of each entry again when it comes to it, after the preemption point between two entries.

In the trigger the other vCPU of the domain changes the number of the second entry there.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import dispatch
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.addresses import READ


def run_entry(hv, vcpu, number, args):
    struct = guest_access.translate_for(hv, vcpu, args, READ)
    if struct is not None:
        # The entries lie in the page of the structs, from 0x400 on; the host keeps no copy of their numbers.
        entries = (struct & ~0xFFF) + 0x400
        for at in range(entries, entries + 16 * 32, 32):
            if hv.machine.memory.load64(at + 8) == args:
                number = hv.machine.memory.load64(at)
    if number == 0x70:
        return dispatch.UNKNOWN.status, 0
    return dispatch.call(hv, vcpu, number, args)


BUG = Bug(
    name="raced-entry-read-after-preemption",
    replaces="hvfuzz.hypervisor.hypercalls.multicall:run_entry",
    replacement=run_entry,
    findings=("host_memory/unannounced/multicall",),
    trigger="""\
# hvp 1
world pair
race at step 0: store(dom1.1, gva=DIRECT+0x10420, size=8, value=0x40)
multicall(dom1, count=2)
  discovery.limits(dom1, what=GRANTS)
  discovery.limits(dom1, what=GRANTS)
""",
)
