"""After a change of stage 2 the translations of the other guest's EP4TA are flushed."""

from hvfuzz.bugs import Bug


def replacement(self):
    machine = self.host.machine
    others = sorted({vcpu.eptp for vcpu in machine.vcpus if vcpu.eptp != self.eptp})
    machine.clock.cycles += 200
    machine.tlb.invept(others[-1])


BUG = Bug(
    name="flush-of-a-neighbour",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.flush",
    replacement=replacement,
    findings=("stale/tlb/memory.protect",),
    trigger="""\
# hvp 1
world pair
load(dom1, gva=DIRECT+0x40000, size=8)
memory.protect(dom1, first=0x40, count=1, rights=R)
""",
)
