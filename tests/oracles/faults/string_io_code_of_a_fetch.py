"""The page fault of INS and OUTS says that it was an instruction fetch: the kernel takes data for code."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.cpu.faults import GuestFault, Vector

ORIGINAL = guest_access.translate_as_guest


def replacement(hv, vcpu, gva, access):
    hpa = ORIGINAL(hv, vcpu, gva, access)
    if isinstance(hpa, GuestFault) and hpa.vector == Vector.PF:
        return GuestFault(Vector.PF, hpa.error | 16, hpa.address)
    return hpa


BUG = Bug(
    name="string-io-code-of-a-fetch",
    replaces="hvfuzz.hypervisor.memory.guest_access:translate_as_guest",
    replacement=replacement,
    findings=("exits/string/outs",),
    trigger="""\
# hvp 1
world pair
outs(dom1, port=0x3f8, size=1, gva=0x700000, times=1)
""",
)
