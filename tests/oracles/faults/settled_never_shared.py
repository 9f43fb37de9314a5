"""The state is never SHARED."""

from hvfuzz.bugs import Bug


def replacement(word):
    return word


BUG = Bug(
    name="settled-never-shared",
    replaces="hvfuzz.hypervisor.memory.frames:FrameTable.settled",
    replacement=replacement,
    findings=("recount/state/grant.create",),
    trigger="""\
# hvp 1
world pair
grant.create(dom2, gfn=0x40, to=dom1, rights=R)
""",
)
