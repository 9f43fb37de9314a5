"""Console text is padded to whole words with what stands behind it in the hypervisor's buffer.

The text is copied through a buffer of the hypervisor in units of 8 bytes, and the tail was never cleared: up to seven
bytes of host memory (a heap page, with its secret) go to the console, at an odd offset. The control domain's log keeps
them, and the reader of the log.

In the trigger one byte is written; the console holds eight.
"""

from hvfuzz.abi.limits import CONSOLE
from hvfuzz.bugs import Bug


def apply(self, hv):
    """Append whole words."""
    console = hv.domains[self.domain].console
    console += self.text
    tail = -len(self.text) % 8
    console += hv.host.read(hv.bounce + 0x20 + 8 - tail, tail)
    del console[:-CONSOLE]


BUG = Bug(
    name="c02-console-padded",
    title="console text is padded with bytes of the hypervisor's heap",
    replaces="hvfuzz.hypervisor.hypercalls.console:WriteConsole.apply",
    replacement=apply,
    findings=("secrets/sent/console.write",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
console.write(dom1, text=[0x41], length=1)
console.write(dom1, text=[0x41, 0x42, 0x43], length=3)
""",
)
