"""Only the range of `out` is checked, not whether it can be written."""

from hvfuzz.bugs import Bug


def replacement(self, hv, vcpu):
    return self.array_ok(self.out)


BUG = Bug(
    name="out-not-checked",
    replaces="hvfuzz.hypervisor.hypercalls.memory.exchange:Exchange.out_ok",
    replacement=replacement,
    findings=("specification/status/memory.exchange",),
    trigger="""\
# hvp 1
world pair
memory.protect(dom1, first=0x41, count=1, rights=R)
memory.exchange(dom1, gfns=[0x60], out=DIRECT+0x41000, count=1, start=0)
""",
)
