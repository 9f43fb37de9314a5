"""The hypervisor puts a translation into the TLB itself, and it is wrong."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import guest_access


def replacement(hv, vcpu, gva, size):
    if gva >> 12 & 0xFF == 0x50:
        key = (vcpu.vpid, 0, vcpu.eptp & ~0xFFF, gva >> 12)
        leaf, _, _ = hv.domains[vcpu.domain].stage2.lookup(0x51)
        hv.machine.tlb.insert(key, (leaf & 0xFFFFF000, 3, False, False, 0, 0x51000))
    return guest_access.raw_copy_from_guest(hv, vcpu, gva, size)


BUG = Bug(
    name="fills-the-tlb",
    replaces="hvfuzz.hypervisor.memory.guest_access:copy_from_guest",
    replacement=replacement,
    findings=("fetch/translated/console.write",),
    trigger="""\
# hvp 1
world pair
console.write(dom1, text=DIRECT+0x50000, length=8)
""",
)
