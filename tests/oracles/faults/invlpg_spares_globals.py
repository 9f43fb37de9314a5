"""INVLPG with PCIDs leaves global translations, as some processors do (Intel ADL063; Linux disables PCIDs on them)."""

from hvfuzz.bugs import Bug
from hvfuzz.machine.mmu.tlb import Tlb


def replacement(self, vpid, pcid, gva):
    kept = {key: entry for key, entry in self.combined.items() if key[0] == vpid and entry[3]}
    Tlb.flush_pcid(self, vpid, pcid)
    self.combined.update(kept)


BUG = Bug(
    name="invlpg-spares-globals",
    replaces="hvfuzz.machine.mmu.tlb:Tlb.invlpg",
    replacement=replacement,
    findings=("stale/invalidation/invlpg",),
    trigger="""\
# hvp 1
world pair
pte(dom1, gva=0x401000, level=1, entry=0x50167)
mov_cr(dom1, register=CR4, value=0x200a0)
load(dom1, gva=0x401000, size=8)
pte(dom1, gva=0x401000, level=1, entry=0x51167)
invlpg(dom1, gva=0x401000)
load(dom1, gva=0x401000, size=8)
""",
)
