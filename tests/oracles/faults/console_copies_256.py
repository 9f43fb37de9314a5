"""256 bytes are read whatever the length, and cut."""

from hvfuzz.abi.status import Status
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.effects import Effect, Refused
from hvfuzz.hypervisor.hypercalls import console
from hvfuzz.hypervisor.memory import guest_access


def replacement(self, hv, caller, vcpu):
    if self.length > 256:
        return Refused(Status.INVALID, "")
    text = guest_access.copy_from_guest(hv, vcpu, self.text, 256)
    if text is None:
        return Refused(Status.FAULT, "")
    return Effect((console.WriteConsole(caller.id, text[: self.length]),), self.length)


BUG = Bug(
    name="console-copies-256",
    replaces="hvfuzz.hypervisor.hypercalls.console:Write.check",
    replacement=replacement,
    findings=("specification/fetched/console.write",),
    trigger="""\
# hvp 1
world pair
console.write(dom1, text=DIRECT+0x40000, length=1)
""",
)
