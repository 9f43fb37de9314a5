"""A word that is written leaves a trace in the word before it."""

from hvfuzz.bugs import Bug


def replacement(self, hpa, value):
    self.work.units += 1
    if self.on_access is not None:
        self.on_access(hpa, 8, True)
    self.memory.store64(hpa, value)
    if hpa & 0xFFF:
        self.memory.store64(hpa - 8, self.words[hpa - 8 >> 3])


BUG = Bug(
    name="word-stored-twice",
    replaces="hvfuzz.hypervisor.core.host:HostMemory.write64",
    replacement=replacement,
    findings=("host_memory/unannounced/memory.protect",),
    trigger="""\
# hvp 1
world pair
memory.protect(dom1, first=0x40, count=1, rights=R)
""",
)
