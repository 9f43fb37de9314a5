"""Translations are dropped one by one, without INVEPT: an EPT table goes back to its pool while walks begin there."""

from hvfuzz.bugs import Bug


def replacement(self):
    machine = self.host.machine
    machine.clock.cycles += 200
    for key in [key for key in machine.tlb.combined if key[2] == self.root]:
        del machine.tlb.combined[key]
    for key in [key for key in machine.tlb.guest_physical if key[0] == self.root]:
        del machine.tlb.guest_physical[key]


BUG = Bug(
    name="flush-translations-only",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.flush",
    replacement=replacement,
    findings=("stale/structure/memory.decrease",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=1, order=0)
pte(dom1, gva=DIRECT+0x41000, level=1, entry=0x200063)
load(dom1, gva=DIRECT+0x41000, size=8)
memory.decrease(dom1, first=0x200, count=1)
""",
)
