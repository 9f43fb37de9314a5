"""The pages of a split large leaf are all changed in one step: cheap ones, so that no bound on work is near."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls.memory.protect import ProtectRange


def replacement(self, caller):
    return (ProtectRange(caller.id, self.first, self.count, self.rights),)


BUG = Bug(
    name="protect-in-one-step",
    replaces="hvfuzz.hypervisor.hypercalls.memory.protect:Protect._steps",
    replacement=replacement,
    findings=("work/entries/memory.protect",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=1, order=9)
memory.protect(dom1, first=0x201, count=511, rights=R)
""",
)
