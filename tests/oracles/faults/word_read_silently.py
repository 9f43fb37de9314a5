"""A word that is read has its neighbour read too, without a word."""

from hvfuzz.bugs import Bug


def replacement(self, hpa):
    self.work.units += 1
    if self.on_access is not None:
        self.on_access(hpa, 8, False)
    return self.words[hpa >> 3] | self.words[(hpa >> 3) ^ 1] & 0


BUG = Bug(
    name="word-read-silently",
    replaces="hvfuzz.hypervisor.core.host:HostMemory.read64",
    replacement=replacement,
    findings=("host_memory/unannounced/memory.decrease",),
    trigger="""\
# hvp 1
world pair
memory.decrease(dom1, first=0x50, count=1)
""",
)
