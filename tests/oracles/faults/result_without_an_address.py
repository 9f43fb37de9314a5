"""A result goes to the page of the other guest with that number, and no address is given."""

from hvfuzz.bugs import Bug


def replacement(self, hv):
    caller = hv.machine.vcpus[self.vcpu]
    leaf, _, _ = hv.domains[{1: 2, 2: 1}[caller.domain]].stage2.lookup(self.gva >> 12 & 0xFF)
    hpa = leaf & 0xFFFFF000 | self.gva & 0xFFF
    hv.observer.guest_copy(caller, -1, hpa, len(self.data), True)
    hv.machine.memory.write(hpa, self.data)
    hv.observer.guest_written()


BUG = Bug(
    name="result-without-an-address",
    replaces="hvfuzz.hypervisor.hypercalls.memory.exchange:PutGuest.apply",
    replacement=replacement,
    findings=("ownership/copy/memory.exchange",),
    trigger="""\
# hvp 1
world pair
grant.create(dom2, gfn=0x50, to=dom1, rights=R|W)
memory.exchange(dom1, gfns=[0x40], out=DIRECT+0x50000, count=1, start=0)
""",
)
