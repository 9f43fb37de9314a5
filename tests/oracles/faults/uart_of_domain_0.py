"""Wide accesses go to domain 0's UART."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits
from hvfuzz.machine.addresses import SIZE_MASK


def replacement(hv, vcpu):
    vmcs = vcpu.vmcs
    saved = vmcs.saved
    offset = vmcs.port - 0x3F8
    uart = hv.domains[0 if vmcs.width == 4 else vcpu.domain].devices.by_name["uart"] if 0 <= offset < 8 else None
    if vmcs.write:
        if uart is not None:
            uart.port_write(offset, vmcs.width, saved[0])
    else:
        value = SIZE_MASK[vmcs.width] if uart is None else uart.port_read(offset, vmcs.width)
        saved[0] = exits.merged(saved[0], vmcs.width, value)
    exits.step_over(vmcs)


BUG = Bug(
    name="uart-of-domain-0",
    replaces="hvfuzz.hypervisor.core.exits:port_access",
    replacement=replacement,
    findings=("exits/model/out",),
    trigger="""\
# hvp 1
world pair
out(dom1, port=0x3f8, size=4, value=65)
""",
)
