"""The #PF of a string instruction in ring 3 has an error code that says supervisor.

The kernel of the guest decides by this bit whose fault it is. A process that touches memory it may not touch looks like
the kernel itself having gone wrong: the kernel stops, or applies the fix-ups of its own code to a user address.

In the trigger ring 3 sends a string from a page of the kernel: #PF 5, and here #PF 1.
"""

from hvfuzz.bugs import Bug
from hvfuzz.machine.cpu.faults import EptViolation, GuestFault, Vector

USER_BIT = 4


def translate_as_guest(hv, vcpu, gva, access):
    """Translate in the guest's ring; a fault has the code of the hypervisor's."""
    translate = hv.machine.mmu.translate
    user = vcpu.cpl != 0
    try:
        return translate(vcpu, gva, access, user)
    except (GuestFault, EptViolation):
        pass
    try:
        return translate(vcpu, gva, access, user)
    except GuestFault as fault:
        return GuestFault(fault.vector, fault.error & ~USER_BIT, fault.address)
    except EptViolation:
        return GuestFault(Vector.GP)


BUG = Bug(
    name="c06-pf-code-without-user",
    title="the page fault of a process's OUTS is reported as the kernel's",
    replaces="hvfuzz.hypervisor.memory.guest_access:translate_as_guest",
    replacement=translate_as_guest,
    findings=("exits/string/outs",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
store(dom1, gva=DIRECT+0xf000, size=8, value=0x400000)
store(dom1, gva=DIRECT+0xf008, size=8, value=0x33)
store(dom1, gva=DIRECT+0xf010, size=8, value=0x3202)
store(dom1, gva=DIRECT+0xf018, size=8, value=0x400ff8)
store(dom1, gva=DIRECT+0xf020, size=8, value=0x2b)
iret(dom1)
outs(dom1, port=0x3f8, size=1, gva=DIRECT+0x50000, times=1)
""",
)
