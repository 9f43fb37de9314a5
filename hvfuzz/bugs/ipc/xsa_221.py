"""XSA-221 / CVE-2017-10917: polling an event port whose bucket was never allocated.

Cause: `SCHEDOP_poll` looked a port number up without the check that every other event-channel operation makes, and
so followed the pointer to a bucket of ports that need not exist: NULL, in host context.

Simplified: a null pointer here is `None`, and following it raises the host's memory fault; Xen PV guests could map
page 0 and have the hypervisor read it.
"""

from hvfuzz.bugs.bug import Bug
from hvfuzz.hypervisor.core.domains import Domain, Port
from hvfuzz.hypervisor.ipc import event_channels


def polled_port(domain: Domain, port: int) -> Port | None:
    """The entry of the port, unchecked."""
    return event_channels.port_entry(domain, port)


BUG = Bug(
    name="xsa-221",
    advisory="XSA-221, CVE-2017-10917",
    title="poll dereferences the bucket of a port that was never allocated",
    replaces="hvfuzz.hypervisor.hypercalls.sched:polled_port",
    replacement=polled_port,
    findings=("host_memory/null/sched.poll",),
    difficulty=1,
    story=__doc__,
    trigger="""\
# hvp 1
world pair
sched.poll(dom1, ports=[5], count=1, timeout=0)
""",
)
