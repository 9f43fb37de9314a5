"""CVE-2026-42488: an error path goes on with the page tables of another vCPU.

Cause: on some error paths of shadow paging, Xen switched to other page tables and left its reference to the running
vCPU as it was. What followed acted for one vCPU by the tables that belong to another.

Simplified: when the tables of the caller do not give an address, the hypervisor tries those of the first vCPU of its
domain, and copies as if they were the caller's.
"""

from hvfuzz.abi.boot import HYPERVISOR_HOLE_END, HYPERVISOR_HOLE_START
from hvfuzz.bugs.bug import Bug
from hvfuzz.hypervisor.memory.guest_access import GuestMemory
from hvfuzz.machine.cpu.faults import EptViolation, GuestFault
from hvfuzz.machine.cpu.vcpu import VCpu


def translate_for(hv: GuestMemory, vcpu: VCpu, gva: int, access: int) -> int | None:
    """Translate by the tables of the caller, twice, and then by those of the first vCPU of its domain."""
    if HYPERVISOR_HOLE_START <= gva < HYPERVISOR_HOLE_END:
        return hv.host.direct(gva)
    machine = hv.machine
    first = next(each for each in machine.vcpus if each.domain == vcpu.domain)
    for owner in (vcpu, vcpu, first):
        try:
            return machine.mmu.translate(owner, gva, access, False, False)
        except (GuestFault, EptViolation):
            continue
    return None


BUG = Bug(
    name="cve-2026-42488",
    advisory="CVE-2026-42488",
    title="where the caller's page tables fail, those of another vCPU of its domain are used",
    replaces="hvfuzz.hypervisor.memory.guest_access:translate_for",
    replacement=translate_for,
    findings=(
        "principal/translation/console.write",
        "fetch/translated/console.write",
    ),
    difficulty=3,
    story=__doc__,
    trigger="""\
# hvp 1
world pair
store(dom1, gva=DIRECT+0x60880, size=8, value=0x61023)
store(dom1, gva=DIRECT+0x61000, size=8, value=0x62023)
store(dom1, gva=DIRECT+0x62000, size=8, value=0x63023)
store(dom1, gva=DIRECT+0x63088, size=8, value=0x11063)
mov_cr(dom1.1, register=3, value=0x60000)
console.write(dom1.1, text=DIRECT+0x50000, length=8)
""",
)
