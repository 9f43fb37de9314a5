"""All domains have the floppy controller of the first guest."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits

port_access = exits.port_access


def replacement(hv, vcpu):
    vmcs = vcpu.vmcs
    if 0x3F0 <= vmcs.port < 0x3F8 and vmcs.write:
        hv.domains[1].devices.by_name["fdc"].port_write(vmcs.port - 0x3F0, vmcs.width, vmcs.saved[0])
        exits.step_over(vmcs)
    else:
        port_access(hv, vcpu)


BUG = Bug(
    name="fifo-shared",
    replaces="hvfuzz.hypervisor.core.exits:port_access",
    replacement=replacement,
    findings=("exits/model/out",),
    trigger="""\
# hvp 1
world pair
out(dom2, port=0x3f5, size=1, value=8)
""",
)
