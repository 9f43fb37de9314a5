"""INS and OUTS go where the kernel may, whoever executes them: user code reads its kernel's memory."""

from hvfuzz.bugs import Bug


def replacement(hv, vcpu, gva, access):
    return hv.machine.mmu.translate(vcpu, gva, access, False, False)


BUG = Bug(
    name="string-io-supervisor",
    replaces="hvfuzz.hypervisor.memory.guest_access:translate_as_guest",
    replacement=replacement,
    findings=("exits/string/outs",),
    trigger="""\
# hvp 1
world pair
store(dom1, gva=DIRECT+0xf000, size=8, value=0x400000)
store(dom1, gva=DIRECT+0xf008, size=8, value=0x33)
store(dom1, gva=DIRECT+0xf010, size=8, value=0x3202)
store(dom1, gva=DIRECT+0xf018, size=8, value=0x400ff8)
store(dom1, gva=DIRECT+0xf020, size=8, value=0x2b)
iret(dom1)
outs(dom1, port=0x3f8, size=1, gva=DIRECT+0x50000, times=2)
""",
)
