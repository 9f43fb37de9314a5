"""The page fault of INS and OUTS does not tell of a reserved bit in an entry, so it looks like a missing right."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.cpu.faults import GuestFault, Vector

ORIGINAL = guest_access.translate_as_guest


def replacement(hv, vcpu, gva, access):
    hpa = ORIGINAL(hv, vcpu, gva, access)
    if isinstance(hpa, GuestFault) and hpa.vector == Vector.PF:
        return GuestFault(Vector.PF, hpa.error & ~8, hpa.address)
    return hpa


BUG = Bug(
    name="string-io-code-without-rsvd",
    replaces="hvfuzz.hypervisor.memory.guest_access:translate_as_guest",
    replacement=replacement,
    findings=("exits/string/ins",),
    trigger="""\
# hvp 1
world pair
pte(dom1, gva=0x405000, level=1, entry=0x8000000050007)
ins(dom1, port=0x80, size=1, gva=0x405000, times=1)
""",
)
