"""The processor caches no paging structure: each translation is right, and takes longer than it should."""

from hvfuzz.bugs import Bug


def replacement(self, vpid, pcid, ep4ta, gva, tables):
    pass


BUG = Bug(
    name="walk-always-from-the-root",
    replaces="hvfuzz.machine.mmu.paging_cache:PagingStructureCaches.keep",
    replacement=replacement,
    findings=("principal/walk/load",),
    trigger="""\
# hvp 1
world pair
load(dom1, gva=DIRECT+0x50000, size=8)
load(dom1, gva=DIRECT+0x51000, size=8)
""",
)
