"""A process that may use ports has its strings moved with the rights of the kernel.

Ring and IOPL are mixed up: the access counts as one of a user only if the ring is above IOPL. IOPL gives a process
ports, as X servers had them, and no memory. Such a process reads and writes all of its kernel by OUTS and INS.

In the trigger ring 3 with IOPL 3 sends eight bytes of the kernel out of the serial port.
"""

from hvfuzz.bugs import Bug
from hvfuzz.machine.cpu.faults import EptViolation, GuestFault, Vector
from hvfuzz.machine.cpu.instructions.rings import IOPL_SHIFT
from hvfuzz.machine.cpu.registers import RFLAGS


def translate_as_guest(hv, vcpu, gva, access):
    """Translate as a user if the ring is above IOPL."""
    translate = hv.machine.mmu.translate
    user = vcpu.cpl > vcpu.regs[RFLAGS] >> IOPL_SHIFT & 3
    try:
        return translate(vcpu, gva, access, user)
    except (GuestFault, EptViolation):
        pass
    try:
        return translate(vcpu, gva, access, user)
    except GuestFault as fault:
        return fault
    except EptViolation:
        return GuestFault(Vector.GP)


BUG = Bug(
    name="c06-iopl-is-privilege",
    title="with IOPL 3 a process's INS and OUTS reach the memory of its kernel",
    replaces="hvfuzz.hypervisor.memory.guest_access:translate_as_guest",
    replacement=translate_as_guest,
    findings=("exits/string/outs",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
store(dom1, gva=DIRECT+0x50000, size=8, value=0x5ec2e75ec2e7)
store(dom1, gva=DIRECT+0xf000, size=8, value=0x400000)
store(dom1, gva=DIRECT+0xf008, size=8, value=0x33)
store(dom1, gva=DIRECT+0xf010, size=8, value=0x3202)
store(dom1, gva=DIRECT+0xf018, size=8, value=0x400ff8)
store(dom1, gva=DIRECT+0xf020, size=8, value=0x2b)
iret(dom1)
outs(dom1, port=0x3f8, size=1, gva=DIRECT+0x50000, times=8)
""",
)
