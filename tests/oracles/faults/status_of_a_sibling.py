"""The status of a call is written to RAX of the other vCPU of the domain."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import dispatch


def replacement(hv, vcpu):
    vmcs = vcpu.vmcs
    saved = vmcs.saved
    status, result = dispatch.call(hv, vcpu, saved[0], saved[dispatch.RDI])
    saved[0] = status & dispatch.U64
    hv.domains[vcpu.domain].vcpus[-1].regs[0] = status & dispatch.U64
    saved[dispatch.RDX] = result
    saved[dispatch.RIP] = saved[dispatch.RIP] + vmcs.length & dispatch.U64


BUG = Bug(
    name="status-of-a-sibling",
    replaces="hvfuzz.hypervisor.core.dispatch:vmcall",
    replacement=replacement,
    findings=("principal/injection/event.send",),
    trigger="""\
# hvp 1
world pair
event.send(dom1, port=3)
""",
)
