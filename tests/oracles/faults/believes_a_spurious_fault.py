"""The first fault is believed, though it may have come of a paging-structure entry that is another one by now."""

from hvfuzz.bugs import Bug
from hvfuzz.machine.cpu.faults import EptViolation, GuestFault


def replacement(hv, vcpu, gva, access):
    try:
        return hv.machine.mmu.translate(vcpu, gva, access, False, False)
    except (GuestFault, EptViolation):
        return None


BUG = Bug(
    name="believes-a-spurious-fault",
    replaces="hvfuzz.hypervisor.memory.guest_access:translate_for",
    replacement=replacement,
    findings=("specification/status/console.write",),
    trigger="""\
# hvp 1
world pair
load(dom1, gva=0x401000, size=8)
pte(dom1, gva=0x401000, level=2, entry=0x4067)
console.write(dom1, text=0x460000, length=8)
""",
)
