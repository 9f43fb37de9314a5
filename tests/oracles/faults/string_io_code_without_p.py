"""The page fault of INS and OUTS says that the page was not there, where a right was missing: the P bit is lost."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.cpu.faults import GuestFault, Vector

ORIGINAL = guest_access.translate_as_guest


def replacement(hv, vcpu, gva, access):
    hpa = ORIGINAL(hv, vcpu, gva, access)
    if isinstance(hpa, GuestFault) and hpa.vector == Vector.PF:
        return GuestFault(Vector.PF, hpa.error & ~1, hpa.address)
    return hpa


BUG = Bug(
    name="string-io-code-without-p",
    replaces="hvfuzz.hypervisor.memory.guest_access:translate_as_guest",
    replacement=replacement,
    findings=("exits/string/outs",),
    trigger="""\
# hvp 1
world pair
mov_cr(dom1, register=CR4, value=0x300020)
outs(dom1, port=0x3f8, size=1, gva=0x400000, times=4)
""",
)
