"""INVEPT drops the translations of all domains: no stale one is left, but the others find theirs gone."""

from hvfuzz.bugs import Bug


def replacement(self, eptp):
    self.structures.invept(None)
    self.combined.clear()
    self.guest_physical.clear()


BUG = Bug(
    name="invept-of-all",
    replaces="hvfuzz.machine.mmu.tlb:Tlb.invept",
    replacement=replacement,
    findings=("stale/invalidation/memory.decrease",),
    trigger="""\
# hvp 1
world pair
load(dom2, gva=DIRECT+0x50000, size=8)
memory.decrease(dom1, first=0x50, count=1)
""",
)
