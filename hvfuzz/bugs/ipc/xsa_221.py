"""XSA-221 / CVE-2017-10917: a NULL dereference when a guest polls an invalid event port.

Cause: `SCHEDOP_poll` looked up a port number without the validity check of every other event-channel operation, and so
dereferenced the pointer to a bucket of ports that may not exist (NULL, in host context).

Simplified: a null pointer is `None` here, and dereferencing it raises a host memory fault. Xen PV guests could map page
0 and have the hypervisor read it.
"""

from hvfuzz.bugs.bug import Bug
from hvfuzz.hypervisor.core.domains import Domain, Port
from hvfuzz.hypervisor.ipc import event_channels


def polled_port(domain: Domain, port: int) -> Port | None:
    """Return the entry of the port without checking that it is valid."""
    return event_channels.port_entry(domain, port)


BUG = Bug(
    name="xsa-221",
    advisory="XSA-221, CVE-2017-10917",
    title="sched.poll dereferences the bucket of a port that was never allocated",
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
