"""CVE-2023-46813 (Linux, #VC handler): a string instruction of user code moves data where only the kernel may.

The handler that performs port accesses in the place of user code looks at whether the address is mapped, and not at
whether user code may write to it. Simplified: only INS is translated with the rights of ring 0.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.addresses import WRITE

ORIGINAL = guest_access.translate_as_guest


def replacement(hv, vcpu, gva, access):
    if access == WRITE:
        return hv.machine.mmu.translate(vcpu, gva, access, False, False)
    return ORIGINAL(hv, vcpu, gva, access)


BUG = Bug(
    name="cve-2023-46813",
    advisory="CVE-2023-46813",
    replaces="hvfuzz.hypervisor.memory.guest_access:translate_as_guest",
    replacement=replacement,
    findings=("exits/string/ins",),
    trigger="""\
# hvp 1
world pair
store(dom1, gva=DIRECT+0xf000, size=8, value=0x400000)
store(dom1, gva=DIRECT+0xf008, size=8, value=0x33)
store(dom1, gva=DIRECT+0xf010, size=8, value=0x3202)
store(dom1, gva=DIRECT+0xf018, size=8, value=0x400ff8)
store(dom1, gva=DIRECT+0xf020, size=8, value=0x2b)
iret(dom1)
ins(dom1, port=0x3f8, size=1, gva=DIRECT+0x50000, times=1)
""",
)
