"""No check of the remote domain."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import domains
from hvfuzz.hypervisor.core.effects import Effect
from hvfuzz.hypervisor.hypercalls import event
from hvfuzz.hypervisor.ipc import event_channels


def replacement(self, hv, caller, vcpu):
    port = event_channels.lowest_free_port(caller)
    room = event.room_for(hv, caller, port)
    return Effect((*room, event.SetPort(caller.id, port, domains.Port(domains.PortState.UNBOUND, self.remote))), port)


BUG = Bug(
    name="port-to-nobody",
    replaces="hvfuzz.hypervisor.hypercalls.event:Alloc.check",
    replacement=replacement,
    findings=("specification/status/event.alloc",),
    trigger="""\
# hvp 1
world pair
event.alloc(dom1, remote=99)
event.close(dom1, port=0)
""",
)
