"""The host stores a time stamp in a guest's page, by the accessor, in an exit that is no call."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor import access, exits

ORIGINAL = exits.hlt


def replacement(hv, vcpu):
    ORIGINAL(hv, vcpu)
    access.copy_to_guest(hv, vcpu, 0xFFFF880000050000, hv.machine.clock.cycles.to_bytes(8, "little"))


BUG = Bug(
    name="guest-write-in-cpuid",
    replaces="hvfuzz.hypervisor.exits:hlt",
    replacement=replacement,
    findings=("exits/call/hlt",),
    trigger="""\
# hvp 1
world pair
hlt(dom1)
""",
)
