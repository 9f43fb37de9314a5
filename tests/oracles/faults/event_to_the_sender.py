"""An event goes to the sender's domain instead of the receiver's."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls.event import Send
from hvfuzz.hypervisor.ipc import event_channels

ORIGINAL = Send.check


def replacement(self, hv, caller, vcpu):
    effect = ORIGINAL(self, hv, caller, vcpu)
    if not hasattr(effect, "steps"):
        return effect
    return effect._replace(steps=(event_channels.Deliver(caller.id, self.port),))


BUG = Bug(
    name="event-to-the-sender",
    replaces="hvfuzz.hypervisor.hypercalls.event:Send.check",
    replacement=replacement,
    findings=("specification/port/event.send",),
    trigger="""\
# hvp 1
world pair
r0 = event.alloc(dom1, remote=dom2)
r1 = event.bind(dom2, remote=dom1, port=r0)
event.send(dom2, port=r1)
""",
)
