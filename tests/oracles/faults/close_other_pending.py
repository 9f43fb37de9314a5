"""The bucket is freed while one other port of it is allocated."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls import event
from hvfuzz.hypervisor.ipc import event_channels


def replacement(domain, port):
    index = port // 32
    free = event_channels.deref(domain.buckets[index]).ports.count(None)
    return (event.FreeBucket(domain.id, index),) if free >= 30 else ()


BUG = Bug(
    name="close-other-pending",
    replaces="hvfuzz.hypervisor.hypercalls.event:leftover_bucket",
    replacement=replacement,
    findings=("specification/frame/event.close",),
    trigger="""\
# hvp 1
world pair
event.alloc(dom1, remote=dom2)
event.alloc(dom1, remote=dom2)
event.close(dom1, port=0)
""",
)
