"""What a call reads is translated by the tables of the domain's last vCPU, and cached for the caller."""

from types import SimpleNamespace

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import guest_access


def replacement(hv, vcpu, gva, size):
    other = hv.domains[vcpu.domain].vcpus[-1]
    state = SimpleNamespace(vpid=vcpu.vpid, eptp=vcpu.eptp, regs=vcpu.regs)
    state.cr0, state.cr3, state.cr4, state.efer = vcpu.cr0, other.cr3, vcpu.cr4, vcpu.efer
    hv.machine.mmu.translate(state, gva, guest_access.READ, False, False)
    return guest_access.raw_copy_from_guest(hv, vcpu, gva, size)


BUG = Bug(
    name="poisoned-cache",
    replaces="hvfuzz.hypervisor.memory.guest_access:copy_from_guest",
    replacement=replacement,
    findings=("principal/translation/console.write",),
    trigger="""\
# hvp 1
world pair
store(dom1, gva=DIRECT+0x60880, size=8, value=0x61023)
store(dom1, gva=DIRECT+0x61000, size=8, value=0x62023)
store(dom1, gva=DIRECT+0x62000, size=8, value=0x63023)
store(dom1, gva=DIRECT+0x63280, size=8, value=0x51063)
store(dom1, gva=DIRECT+0x63080, size=8, value=0x10063)
mov_cr(dom1.1, register=3, value=0x60000)
invlpg(dom1, gva=DIRECT+0x50000)
console.write(dom1, text=DIRECT+0x50000, length=8)
""",
)
