"""A software cache of the last lookup, forgotten at writes only by the tree's own entry (never)."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import table_tree

ORIGINAL = table_tree.TableTree.lookup

CACHE = {}


def replacement(self, page):
    key = (self.root, page)
    if page == 0x60:
        if key in CACHE:
            return CACHE[key]
        CACHE[key] = ORIGINAL(self, page)
        return CACHE[key]
    return ORIGINAL(self, page)


BUG = Bug(
    name="lookup-cached",
    replaces="hvfuzz.hypervisor.memory.table_tree:TableTree.lookup",
    replacement=replacement,
    findings=("specification/status/grant.create",),
    trigger="""\
# hvp 1
world pair
memory.protect(dom1, first=0x60, count=1, rights=R)
grant.create(dom1, gfn=0x60, to=dom2, rights=R|W)
""",
)
