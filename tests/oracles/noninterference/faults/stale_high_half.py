"""IN leaves in the upper bytes of RAX what the vCPU that exited before had there.

The register was never reloaded on the way through the scheduler (CVE-2018-3665 left the FPU's registers so).
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.exits import merged, step_over
from hvfuzz.hypervisor.devices import string_io
from hvfuzz.machine.addresses import SIZE_MASK
from hvfuzz.machine.cpu.registers import RAX


def port_access(hv, vcpu):
    """IN or OUT, with the register of another vCPU."""
    vmcs = vcpu.vmcs
    if vmcs.string:
        if string_io.transfer(hv, vcpu):
            step_over(vmcs)
        return
    saved = vmcs.saved
    device, offset = string_io.device_at(hv, vcpu)
    if vmcs.write:
        if device is not None:
            device.port_write(offset, vmcs.width, saved[RAX])
    else:
        value = SIZE_MASK[vmcs.width] if device is None else device.port_read(offset, vmcs.width)
        other = hv.machine.vcpus[(vcpu.id + 2) % len(hv.machine.vcpus)]
        saved[RAX] = merged(other.regs[RAX], vmcs.width, value)
    step_over(vmcs)


BUG = Bug(
    name="stale-high-half",
    title="a register keeps bytes of another domain's vCPU",
    replaces="hvfuzz.hypervisor.core.exits:port_access",
    replacement=port_access,
    findings=("noninterference/registers/in",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
in(dom1, port=0x80, size=1)
""",
)
