"""A batch has no preemption points between its entries."""

from hvfuzz.bugs import Bug


def replacement(self):
    return 0


BUG = Bug(
    name="no-preemption",
    replaces="hvfuzz.hypervisor.hypercalls.multicall:RunEntry.work",
    replacement=replacement,
    findings=("work/preemption/memory.populate",),
    trigger="""\
# hvp 1
world pair
multicall(dom1, count=16)
  grant.create(dom1, gfn=0x50, to=dom2, rights=R|W)
  grant.create(dom1, gfn=0x51, to=dom2, rights=R|W)
  grant.create(dom1, gfn=0x52, to=dom2, rights=R|W)
  grant.create(dom1, gfn=0x53, to=dom2, rights=R|W)
  memory.populate(dom1, first=0x100, count=64, order=0)
  memory.populate(dom1, first=0x140, count=64, order=0)
  memory.populate(dom1, first=0x180, count=64, order=0)
  memory.populate(dom1, first=0x1c0, count=64, order=0)
  memory.decrease(dom1, first=0x100, count=64)
  memory.decrease(dom1, first=0x140, count=64)
  memory.decrease(dom1, first=0x180, count=64)
  memory.decrease(dom1, first=0x1c0, count=64)
  memory.populate(dom1, first=0x100, count=64, order=0)
  memory.populate(dom1, first=0x140, count=64, order=0)
  memory.populate(dom1, first=0x180, count=64, order=0)
  memory.populate(dom1, first=0x1c0, count=64, order=0)
""",
)
