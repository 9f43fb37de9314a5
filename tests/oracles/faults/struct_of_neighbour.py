"""The argument struct is fetched from the other guest: it frees a page that this one names."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import dispatch

ORIGINAL = dispatch.fetch_arguments


def twin(hv, vcpu):
    """The vCPU of the other guest with the same index: all guests boot alike."""
    domain = {1: 2, 2: 1}.get(vcpu.domain)
    if domain is None or vcpu.index >= len(hv.domains[domain].vcpus):
        return vcpu
    return hv.domains[domain].vcpus[vcpu.index]


def replacement(hv, vcpu, caller, declaration, pointer):
    return ORIGINAL(hv, twin(hv, vcpu), caller, declaration, pointer)


BUG = Bug(
    name="struct-of-neighbour",
    replaces="hvfuzz.hypervisor.core.dispatch:fetch_arguments",
    replacement=replacement,
    findings=("principal/translation/memory.decrease",),
    trigger="""\
# hvp 1
world pair
memory.decrease(dom1, first=0x60, count=1)
vmcall(dom2, rax=0x11, rdi=DIRECT+0x10000)
""",
)
