"""Result and status of a call are also put where the last exit of the other vCPU has saved."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import dispatch

ORIGINAL = dispatch.vmcall


def replacement(hv, vcpu):
    ORIGINAL(hv, vcpu)
    other = hv.domains[vcpu.domain].vcpus[-1].vmcs.saved
    if other:
        other[0], other[dispatch.RDX] = vcpu.vmcs.saved[0], vcpu.vmcs.saved[dispatch.RDX]


BUG = Bug(
    name="status-saved-for-a-sibling",
    replaces="hvfuzz.hypervisor.core.dispatch:vmcall",
    replacement=replacement,
    findings=("principal/injection/discovery.limits",),
    trigger="""\
# hvp 1
world pair
cpuid(dom1.1, leaf=0)
discovery.limits(dom1, what=GRANTS)
""",
)
