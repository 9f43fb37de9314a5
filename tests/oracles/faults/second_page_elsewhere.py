"""The second page of a result is written to the frame behind the first."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import guest_access


def replacement(self, hv):
    caller = hv.machine.vcpus[self.vcpu]
    hpa = guest_access.translate_for(hv, caller, self.gva, guest_access.WRITE)
    if hpa is not None:
        first = min(len(self.data), 0x1000 - (self.gva & 0xFFF))
        guest_access.write_at(hv, caller, self.gva, hpa, self.data[:first])
        if first < len(self.data):
            guest_access.write_at(hv, caller, self.gva + first, hpa + first, self.data[first:])


BUG = Bug(
    name="second-page-elsewhere",
    replaces="hvfuzz.hypervisor.hypercalls.memory.exchange:PutGuest.apply",
    replacement=replacement,
    findings=("fetch/translated/memory.exchange",),
    trigger="""\
# hvp 1
world pair
pte(dom1, gva=DIRECT+0x41000, level=1, entry=0x50063)
memory.exchange(dom1, gfns=[0x60, 0x61], out=DIRECT+0x40ff8, count=2, start=0)
""",
)
