"""A borrowed page can be protected: to RWX."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import page_checks
from hvfuzz.hypervisor.memory.table_tree import RIGHTS


def replacement(hv, caller, gfn, entry, level):
    return None if entry & RIGHTS else page_checks.ABSENT


BUG = Bug(
    name="protect-foreign",
    replaces="hvfuzz.hypervisor.memory.page_checks:page_refusal",
    replacement=replacement,
    findings=("ownership/rights/memory.protect",),
    trigger="""\
# hvp 1
world pair
r0 = grant.create(dom2, gfn=0x40, to=dom1, rights=R)
grant.map(dom1, granter=dom2, ref=r0, gfn=0x400, iova=0, flags=HOST|READONLY)
memory.protect(dom1, first=0x400, count=1, rights=R|W|X)
""",
)
