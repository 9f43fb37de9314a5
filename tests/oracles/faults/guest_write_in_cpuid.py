"""The host stores a time stamp in a guest's page, by the accessor, in an exit that is no call."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits
from hvfuzz.hypervisor.memory import guest_access

ORIGINAL = exits.hlt


def replacement(hv, vcpu):
    ORIGINAL(hv, vcpu)
    guest_access.copy_to_guest(hv, vcpu, 0xFFFF880000050000, hv.machine.clock.cycles.to_bytes(8, "little"))


BUG = Bug(
    name="guest-write-in-cpuid",
    replaces="hvfuzz.hypervisor.core.exits:hlt",
    replacement=replacement,
    findings=("exits/call/hlt",),
    trigger="""\
# hvp 1
world pair
hlt(dom1)
""",
)
