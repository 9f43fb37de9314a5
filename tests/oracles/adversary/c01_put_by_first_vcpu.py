"""The result of an exchange is written through the page tables of the domain's first vCPU, whichever called.

`d->vcpu[0]` stands where `current` should. Each vCPU may have an address space of its own: a process that may make the
kernel call on vCPU 1 has the result written to whatever vCPU 0 has at that address, a page that the caller's tables do
not reach; and the caller's check was made for another page.

In the trigger vCPU 1 of dom1 has its own root table, by which 0x400000 is gfn 0x54. The numbers go to gfn 0x20.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import guest_access


def apply(self, hv):
    """Write by way of the first vCPU of the domain."""
    domain = hv.machine.vcpus[self.vcpu].domain
    guest_access.raw_copy_to_guest(hv, hv.domains[domain].vcpus[0], self.gva, self.data)


BUG = Bug(
    name="c01-put-by-first-vcpu",
    title="a result is written in the address space of vCPU 0 instead of that of the caller",
    replaces="hvfuzz.hypervisor.hypercalls.memory.exchange:PutGuest.apply",
    replacement=apply,
    findings=("principal/translation/memory.exchange",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
store(dom1, gva=DIRECT+0x50880, size=8, value=0x2063)
store(dom1, gva=DIRECT+0x50000, size=8, value=0x51067)
store(dom1, gva=DIRECT+0x51000, size=8, value=0x52067)
store(dom1, gva=DIRECT+0x52010, size=8, value=0x53067)
store(dom1, gva=DIRECT+0x53000, size=8, value=0x54067)
mov_cr(dom1.1, register=CR3, value=0x50000)
memory.exchange(dom1.1, gfns=[0x60], out=0x400000, count=1, start=0)
load(dom1.1, gva=0x400000, size=8)
load(dom1, gva=0x400000, size=8)
""",
)
