"""AC lifts SMAP in INS and OUTS while it is clear: the hypervisor's own AC counts, and not the guest's."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.cpu.registers import RFLAGS
from hvfuzz.machine.mmu.paging import RFLAGS_AC

ORIGINAL = guest_access.translate_as_guest


def replacement(hv, vcpu, gva, access):
    kept = vcpu.regs[RFLAGS]
    vcpu.regs[RFLAGS] |= RFLAGS_AC
    try:
        return ORIGINAL(hv, vcpu, gva, access)
    finally:
        vcpu.regs[RFLAGS] = kept


BUG = Bug(
    name="string-io-ac-ignored-by-smap",
    replaces="hvfuzz.hypervisor.memory.guest_access:translate_as_guest",
    replacement=replacement,
    findings=("exits/string/ins",),
    trigger="""\
# hvp 1
world pair
mov_cr(dom1, register=CR4, value=0x300020)
ins(dom1, port=0x80, size=4, gva=0x400000, times=2)
""",
)
