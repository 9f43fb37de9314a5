"""Ports beyond the table wrap."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.ipc import event_channels


def replacement(domain, port):
    return event_channels.lookup(domain, port & 127)


BUG = Bug(
    name="poll-unknown",
    replaces="hvfuzz.hypervisor.hypercalls.sched:polled_port",
    replacement=replacement,
    findings=("specification/status/sched.poll",),
    trigger="""\
# hvp 1
world pair
event.alloc(dom1, remote=dom2)
sched.poll(dom1, ports=[128], count=1, timeout=1)
""",
)
