"""INS and OUTS of a kernel are translated as if SMAP were off: a pointer that a process chose leads into it."""

from hvfuzz.bugs import Bug


def replacement(hv, vcpu, gva, access):
    return hv.machine.mmu.translate(vcpu, gva, access, vcpu.cpl != 0, False)


BUG = Bug(
    name="string-io-smap",
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
