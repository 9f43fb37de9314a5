"""The result goes through the tables of another vCPU of the domain, in the name of the caller."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import guest_access


def replacement(self, hv):
    caller = hv.machine.vcpus[self.vcpu]
    other = hv.domains[caller.domain].vcpus[-1]
    hpa = guest_access.translate_for(hv, other, self.gva, guest_access.WRITE)
    if hpa is not None:
        guest_access.write_at(hv, caller, self.gva, hpa, self.data)


BUG = Bug(
    name="put-sibling-renamed",
    replaces="hvfuzz.hypervisor.hypercalls.memory.exchange:PutGuest.apply",
    replacement=replacement,
    findings=("principal/translation/memory.exchange",),
    trigger="""\
# hvp 1
world pair
store(dom1, gva=DIRECT+0x60880, size=8, value=0x61023)
store(dom1, gva=DIRECT+0x61000, size=8, value=0x62023)
store(dom1, gva=DIRECT+0x62000, size=8, value=0x63023)
store(dom1, gva=DIRECT+0x63280, size=8, value=0x51063)
mov_cr(dom1.1, register=3, value=0x60000)
memory.exchange(dom1, gfns=[0x40], out=DIRECT+0x50000, count=1, start=0)
""",
)
