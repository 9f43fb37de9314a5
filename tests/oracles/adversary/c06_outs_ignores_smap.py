"""SMAP is checked for the strings that are written to memory, and not for those that are read.

A kernel that runs OUTS on a pointer of a process relies on SMAP to stop it (SDM Vol. 3A, 4.6.1: reads and writes
alike). Here the kernel sends a buffer of the attacker's in place of its own, as if SMAP were off.

In the trigger CR4.SMAP is set, AC is clear, and ring 0 sends a string from a user page: it must be #PF 1.
"""

from hvfuzz.bugs import Bug
from hvfuzz.machine.addresses import WRITE
from hvfuzz.machine.cpu.faults import EptViolation, GuestFault, Vector


def translate_as_guest(hv, vcpu, gva, access):
    """Translate in the guest's ring, with SMAP for writes."""
    translate = hv.machine.mmu.translate
    user = vcpu.cpl != 0
    smap = access == WRITE
    try:
        return translate(vcpu, gva, access, user, smap)
    except (GuestFault, EptViolation):
        pass
    try:
        return translate(vcpu, gva, access, user, smap)
    except GuestFault as fault:
        return fault
    except EptViolation:
        return GuestFault(Vector.GP)


BUG = Bug(
    name="c06-outs-ignores-smap",
    title="OUTS in ring 0 reads user pages despite SMAP",
    replaces="hvfuzz.hypervisor.memory.guest_access:translate_as_guest",
    replacement=translate_as_guest,
    findings=("exits/string/outs",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
mov_cr(dom1, register=CR4, value=0x300020)
ins(dom1, port=0x80, size=1, gva=0x400000, times=1)
outs(dom1, port=0x3f8, size=1, gva=0x400000, times=1)
""",
)
