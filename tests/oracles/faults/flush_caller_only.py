"""Only vCPU 0's translations are flushed, guest-physical ones stay."""

from hvfuzz.bugs import Bug


def replacement(self):
    m = self.host.machine
    m.clock.cycles += 200
    for key in [k for k in m.tlb.combined if k[2] == self.root and k[0] % 2 == 0]:
        del m.tlb.combined[key]
    for key in [k for k in m.tlb.guest_physical if k[0] == self.root]:
        del m.tlb.guest_physical[key]


BUG = Bug(
    name="flush-caller-only",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.flush",
    replacement=replacement,
    findings=("stale/tlb/memory.protect",),
    trigger="""\
# hvp 1
world pair
load(dom1.1, gva=DIRECT+0x40000, size=8)
load(dom1, gva=DIRECT+0x40000, size=8)
memory.protect(dom1, first=0x40, count=1, rights=R)
memory.decrease(dom1, first=0x40, count=1)
""",
)
