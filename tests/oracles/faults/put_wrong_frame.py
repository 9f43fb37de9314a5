"""A result that crosses a page is written to the frame that physically follows."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import guest_access


def replacement(self, hv):
    vcpu = hv.machine.vcpus[self.vcpu]
    hpa = guest_access.translate_for(hv, vcpu, self.gva, 2)
    if hpa is not None:
        hv.observer.guest_copy(vcpu, self.gva, hpa, len(self.data), True)
        hv.machine.memory.write(hpa, self.data)


BUG = Bug(
    name="put-wrong-frame",
    replaces="hvfuzz.hypervisor.hypercalls.memory.exchange:PutGuest.apply",
    replacement=replacement,
    findings=("fetch/crossing/memory.exchange",),
    trigger="""\
# hvp 1
world pair
pte(dom1, gva=DIRECT+0x41000, level=1, entry=0x50003)
store(dom1, gva=DIRECT+0x10200, size=8, value=0x60)
store(dom1, gva=DIRECT+0x10208, size=8, value=0x61)
memory.exchange(dom1, gfns=DIRECT+0x10200, out=DIRECT+0x40ff8, count=2, start=0)
load(dom1, gva=DIRECT+0x50000, size=8)
""",
)
