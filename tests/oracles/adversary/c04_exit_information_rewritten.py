"""The handler of a register access rounds the address in the exit information down to 16 bytes, and works with that.

What is read back afterwards looks as if the guest had named the register that was accessed. A driver that sets the
destination of its device sets the source instead, and keeps the destination of before: the next copy overwrites memory
that the driver did not name.

In the trigger dom1 sets source and destination of its engine. The source register has the address of the second.
"""

from hvfuzz.abi.boot import MMIO_SIZE
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.exits import emulated_device, read_register, refuse_access, step_over, write_register
from hvfuzz.machine.cpu.registers import RAX


def ept_violation(hv, vcpu):
    """Emulate accesses to registers, at multiples of 16."""
    device = emulated_device(hv, vcpu)
    if device is None:
        refuse_access(hv, vcpu)
        return
    vmcs = vcpu.vmcs
    vmcs.operand &= ~0xF
    vmcs.gpa &= ~0xF
    offset, width = vmcs.operand & (MMIO_SIZE - 1), vmcs.width
    if vmcs.write:
        write_register(hv, device, offset, width, vmcs.saved[RAX])
    else:
        vmcs.saved[RAX] = read_register(hv, device, offset, width)
    step_over(vmcs)


BUG = Bug(
    name="c04-exit-information-rewritten",
    title="a store to a device register reaches the register before it, and the exit information says so",
    replaces="hvfuzz.hypervisor.core.exits:ept_violation",
    replacement=ept_violation,
    findings=("exits/device/mmio_write",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
mmio_write(dom1, device=0, register=SRC, size=8, value=0x1000)
mmio_write(dom1, device=0, register=DST, size=8, value=0x2000)
mmio_read(dom1, device=0, register=DST, size=8)
mmio_read(dom1, device=0, register=SRC, size=8)
""",
)
