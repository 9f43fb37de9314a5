"""A refused send leaves its own port pending."""

from hvfuzz.abi.status import Status
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import domains
from hvfuzz.hypervisor.core.effects import Effect, Refused
from hvfuzz.hypervisor.ipc import event_channels


def replacement(self, hv, caller, vcpu):
    entry = event_channels.lookup(caller, self.port)
    if entry is None or entry.state is not domains.PortState.CONNECTED:
        if entry is not None:
            event_channels.set_port(hv, caller.id, self.port, entry._replace(pending=True))
        return Refused(Status.NO_PORT, "port not connected")
    return Effect((event_channels.Deliver(entry.remote, entry.remote_port),))


BUG = Bug(
    name="send-marks-refused",
    replaces="hvfuzz.hypervisor.hypercalls.event:Send.check",
    replacement=replacement,
    findings=("specification/port/event.send",),
    trigger="""\
# hvp 1
world pair
event.alloc(dom1, remote=dom2)
event.send(dom1, port=0)
""",
)
