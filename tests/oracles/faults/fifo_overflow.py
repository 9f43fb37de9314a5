"""The FIFO takes whatever comes: CVE-2015-3456, as the device model was before."""

from hvfuzz.bugs import Bug


def replacement(self, byte):
    self.host.write(self.buffer + self.position, bytes((byte,)))
    self.position += 1


BUG = Bug(
    name="fifo-overflow",
    replaces="hvfuzz.hypervisor.devices.fdc:Fifo.put",
    replacement=replacement,
    findings=("exits/model/out",),
    trigger="""\
# hvp 1
world pair
out(dom1, port=0x3f5, size=1, value=142)
out(dom1, port=0x3f5, size=1, value=0)
out(dom1, port=0x3f5, size=1, value=1)
out(dom1, port=0x3f5, size=1, value=2)
out(dom1, port=0x3f5, size=1, value=3)
out(dom1, port=0x3f5, size=1, value=4)
out(dom1, port=0x3f5, size=1, value=5)
out(dom1, port=0x3f5, size=1, value=6)
out(dom1, port=0x3f5, size=1, value=7)
out(dom1, port=0x3f5, size=1, value=8)
out(dom1, port=0x3f5, size=1, value=9)
out(dom1, port=0x3f5, size=1, value=10)
out(dom1, port=0x3f5, size=1, value=11)
out(dom1, port=0x3f5, size=1, value=12)
out(dom1, port=0x3f5, size=1, value=13)
out(dom1, port=0x3f5, size=1, value=14)
out(dom1, port=0x3f5, size=1, value=15)
out(dom1, port=0x3f5, size=1, value=16)
out(dom1, port=0x3f5, size=1, value=17)
out(dom1, port=0x3f5, size=1, value=18)
out(dom1, port=0x3f5, size=1, value=19)
out(dom1, port=0x3f5, size=1, value=20)
out(dom1, port=0x3f5, size=1, value=21)
out(dom1, port=0x3f5, size=1, value=22)
out(dom1, port=0x3f5, size=1, value=23)
out(dom1, port=0x3f5, size=1, value=24)
out(dom1, port=0x3f5, size=1, value=25)
out(dom1, port=0x3f5, size=1, value=26)
out(dom1, port=0x3f5, size=1, value=27)
out(dom1, port=0x3f5, size=1, value=28)
out(dom1, port=0x3f5, size=1, value=29)
out(dom1, port=0x3f5, size=1, value=30)
out(dom1, port=0x3f5, size=1, value=31)
out(dom1, port=0x3f5, size=1, value=32)
""",
)
