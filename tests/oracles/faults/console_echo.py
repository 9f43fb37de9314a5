"""The text arrives at the serial port of the next domain."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls import console

ORIGINAL = console.WriteConsole.apply


def replacement(self, hv):
    ORIGINAL(self, hv)
    for b in self.text[:16]:
        hv.domains[(self.domain + 1) % len(hv.domains)].devices.by_name["uart"].receive(b)


BUG = Bug(
    name="console-echo",
    replaces="hvfuzz.hypervisor.hypercalls.console:WriteConsole.apply",
    replacement=replacement,
    findings=("exits/others/console.write",),
    trigger="""\
# hvp 1
world pair
store(dom1, gva=DIRECT+0x40000, size=8, value=0x4142)
console.write(dom1, text=DIRECT+0x40000, length=1)
in(dom2, port=0x3f8, size=1)
""",
)
