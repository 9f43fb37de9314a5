"""The call runs as one of the other guest: its page is freed."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import dispatch

ORIGINAL = dispatch.call


def twin(hv, vcpu):
    """The vCPU of the other guest with the same index: all guests boot alike."""
    domain = {1: 2, 2: 1}.get(vcpu.domain)
    if domain is None or vcpu.index >= len(hv.domains[domain].vcpus):
        return vcpu
    return hv.domains[domain].vcpus[vcpu.index]


def replacement(hv, vcpu, number, pointer):
    return ORIGINAL(hv, twin(hv, vcpu) if number == 0x11 else vcpu, number, pointer)


BUG = Bug(
    name="call-of-neighbour",
    replaces="hvfuzz.hypervisor.core.dispatch:call",
    replacement=replacement,
    findings=("principal/translation/memory.decrease",),
    trigger="""\
# hvp 1
world pair
memory.decrease(dom1, first=0x60, count=1)
memory.decrease(dom2, first=0x60, count=1)
""",
)
