"""SMAP stops INS and OUTS of a kernel that has set AC: its copy from a process is refused."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.cpu.registers import RFLAGS
from hvfuzz.machine.mmu.paging import RFLAGS_AC

ORIGINAL = guest_access.translate_as_guest


def replacement(hv, vcpu, gva, access):
    kept = vcpu.regs[RFLAGS]
    vcpu.regs[RFLAGS] &= ~RFLAGS_AC
    try:
        return ORIGINAL(hv, vcpu, gva, access)
    finally:
        vcpu.regs[RFLAGS] = kept


BUG = Bug(
    name="string-io-smap-despite-ac",
    replaces="hvfuzz.hypervisor.memory.guest_access:translate_as_guest",
    replacement=replacement,
    findings=("exits/string/outs",),
    trigger="""\
# hvp 1
world pair
mov_cr(dom1, register=CR4, value=0x300020)
store(dom1, gva=DIRECT+0xf000, size=8, value=DIRECT+0x9000)
store(dom1, gva=DIRECT+0xf008, size=8, value=0x10)
store(dom1, gva=DIRECT+0xf010, size=8, value=0x40002)
store(dom1, gva=DIRECT+0xf018, size=8, value=DIRECT+0xf000)
store(dom1, gva=DIRECT+0xf020, size=8, value=0x18)
iret(dom1)
outs(dom1, port=0x3f8, size=1, gva=0x400000, times=2)
""",
)
