"""A disk is reset as its driver resets it, so that what is on it stays."""

from triggers.virtio_driver import MAP, NOTIFY, OUT, block_request, initialise, make_available, program, store

from hvfuzz.bugs import Bug


def replacement(self, hv):
    device = hv.machine.devices[self.device]
    hv.iommu.detach(device.bdf)
    device.mmio_write(0x88, 8, 0)


BUG = Bug(
    name="disk-unscrubbed",
    replaces="hvfuzz.hypervisor.hypercalls.device.assignment:DeassignDevice.apply",
    replacement=replacement,
    findings=("exits/device/device.deassign",),
    trigger=program(
        MAP,
        initialise(),
        block_request(OUT, (0x41000, 0x200, 0)),
        NOTIFY,
        store(0x41000, 0x77),
        make_available(0, 1),
        NOTIFY,
        "device.deassign(dom0, device=2)",
    ),
)
