"""The flush always names the tables of domain 0: those of the caller stay cached."""

from hvfuzz.bugs import Bug
from hvfuzz.machine.clock import Cost


def replacement(self):
    machine = self.host.machine
    machine.clock.cycles += Cost.FLUSH
    machine.tlb.invept(machine.vcpus[0].eptp)


BUG = Bug(
    name="flush-of-another-space",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.flush",
    replacement=replacement,
    findings=("stale/unflushed/memory.decrease",),
    trigger="""\
# hvp 1
world pair
memory.decrease(dom1, first=0x40, count=1)
""",
)
