"""A blocked request of a device leaves no record, so that nobody can know of it."""

from hvfuzz.bugs import Bug


def replacement(self, reason, bdf, iova, access):
    pass


BUG = Bug(
    name="fault-not-recorded",
    replaces="hvfuzz.machine.vtd.fault_log:FaultLog.record",
    replacement=replacement,
    findings=("stale/remapping/mmio_write",),
    trigger="""\
# hvp 1
world devices
mmio_write(dom1, device=0, register=SRC, size=8, value=0x5000)
mmio_write(dom1, device=0, register=LENGTH, size=4, value=8)
mmio_write(dom1, device=0, register=CONTROL, size=1, value=1)
""",
)
