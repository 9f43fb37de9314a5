"""With a full TLB, a page above the first megabyte is taken for the next one."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import guest_access


def replacement(hv, vcpu, gva, size):
    tlb = hv.machine.tlb
    if gva >> 12 & 0xFF == 0x50 and len(tlb.combined) >= tlb.capacity:
        hpa = guest_access.translate_for(hv, vcpu, gva + 0x1000, guest_access.READ)
        return None if hpa is None else guest_access.read_at(hv, vcpu, gva, hpa, size)
    return guest_access.raw_copy_from_guest(hv, vcpu, gva, size)


BUG = Bug(
    name="wrong-page-of-full-cache",
    replaces="hvfuzz.hypervisor.memory.guest_access:copy_from_guest",
    replacement=replacement,
    findings=("fetch/translated/console.write",),
    trigger="""\
# hvp 1
world pair
tlb(dom1, capacity=2)
load(dom1, gva=DIRECT+0x60000, size=8)
load(dom1, gva=DIRECT+0x61000, size=8)
console.write(dom1, text=DIRECT+0x50000, length=8)
""",
)
