"""A guest's fetch is not held back by NX in its tables: only audited runs look at what a guest fetches."""

from hvfuzz.bugs import Bug
from hvfuzz.machine.addresses import EXEC, READ
from hvfuzz.machine.mmu.stage1 import Mmu

ORIGINAL = Mmu._walk


def replacement(self, vcpu, gva, access, user, smap, key, start):
    return ORIGINAL(self, vcpu, gva, READ if access == EXEC else access, user, smap, key, start)


BUG = Bug(
    name="fetch-ignores-nx",
    replaces="hvfuzz.machine.mmu.stage1:Mmu._walk",
    replacement=replacement,
    findings=("principal/access/execute",),
    trigger="""\
# hvp 1
world pair
pte(dom1, gva=0x405000, level=1, entry=0x8000000000050007)
execute(dom1, gva=0x405000)
""",
)
