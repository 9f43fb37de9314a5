"""INS of a kernel is refused where CR0.WP = 0 lets it write to a read-only page."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.mmu.paging import CR0_WP

ORIGINAL = guest_access.translate_as_guest


def replacement(hv, vcpu, gva, access):
    kept, vcpu.cr0 = vcpu.cr0, vcpu.cr0 | CR0_WP
    try:
        return ORIGINAL(hv, vcpu, gva, access)
    finally:
        vcpu.cr0 = kept


BUG = Bug(
    name="string-io-refuses-read-only",
    replaces="hvfuzz.hypervisor.memory.guest_access:translate_as_guest",
    replacement=replacement,
    findings=("exits/string/ins",),
    trigger="""\
# hvp 1
world pair
mov_cr(dom1, register=CR0, value=0x80000033)
pte(dom1, gva=0x405000, level=1, entry=0x50001)
ins(dom1, port=0x80, size=1, gva=0x405000, times=1)
""",
)
