"""Zero pages are copied faster: time tells of the content."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls.grant import copy

ORIGINAL = copy.copy_bytes


def replacement(hv, vcpu, source, dest, length):
    ORIGINAL(hv, vcpu, source, dest, length)
    if any(hv.machine.memory.read(source, length)):
        hv.machine.clock.cycles += 8192


BUG = Bug(
    name="copy-cost-of-content",
    replaces="hvfuzz.hypervisor.hypercalls.grant.copy:copy_bytes",
    replacement=replacement,
    findings=("host_memory/unannounced/grant.copy",),
    trigger="""\
# hvp 1
world pair
grant.copy(dom1, flags=0, from=0x40, to=0x41, length=8)
""",
)
