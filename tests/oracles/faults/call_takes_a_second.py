"""A call takes 2^31 cycles, whatever it is: the others wait."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls.discovery import SetVersion

ORIGINAL = SetVersion.apply


def replacement(self, hv):
    hv.machine.clock.cycles += 1 << 31
    ORIGINAL(self, hv)


BUG = Bug(
    name="call-takes-a-second",
    replaces="hvfuzz.hypervisor.hypercalls.discovery:SetVersion.apply",
    replacement=replacement,
    findings=("work/time/discovery.version",),
    trigger="""\
# hvp 1
world pair
discovery.version(dom1, want=2)
time.clock_read(dom2)
""",
)
