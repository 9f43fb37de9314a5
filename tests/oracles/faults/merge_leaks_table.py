"""The table does not go back."""

from hvfuzz.bugs import Bug


def replacement(self, address, entry, block):
    self.host.write64(address, block)
    self.flush()


BUG = Bug(
    name="merge-leaks-table",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.merge",
    replacement=replacement,
    findings=("recount/pool/memory.protect",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=1, order=9)
memory.protect(dom1, first=0x200, count=1, rights=R)
memory.protect(dom1, first=0x200, count=1, rights=R|W|X)
""",
)
