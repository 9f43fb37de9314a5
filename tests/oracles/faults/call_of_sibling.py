"""A call that needs no memory of the guest is made in the name of vCPU 0 of the domain."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import dispatch

ORIGINAL = dispatch.refuse


def replacement(hv, vcpu, declaration, refusal):
    return ORIGINAL(hv, hv.domains[vcpu.domain].vcpus[0], declaration, refusal)


BUG = Bug(
    name="call-of-sibling",
    replaces="hvfuzz.hypervisor.core.dispatch:refuse",
    replacement=replacement,
    findings=("principal/call/vmcall",),
    trigger="""\
# hvp 1
world pair
vmcall(dom1.1, rax=0x99, rdi=0)
""",
)
