"""Taking any device away rings the bell of all devices."""

from triggers.virtio_driver import MAP, OUT, VERSION_1, block_request, initialise, program

from hvfuzz.bugs import Bug


def replacement(self, hv):
    device = hv.machine.devices[self.device]
    hv.iommu.detach(device.bdf)
    device.reset()
    for other in hv.machine.devices:
        other.mmio_write(0x80, 8, 0)


BUG = Bug(
    name="kicked-by-another-call",
    replaces="hvfuzz.hypervisor.hypercalls.device.assignment:DeassignDevice.apply",
    replacement=replacement,
    findings=("exits/dma/device.deassign",),
    trigger=program(
        "device.assign(dom0, device=0, to=dom1)",
        "device.assign(dom0, device=1, to=dom1)",
        MAP,
        initialise(VERSION_1),
        block_request(OUT, (0x41000, 0x200, 0)),
        "device.deassign(dom0, device=0)",
    ),
)
