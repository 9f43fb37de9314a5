"""A write to the disk also changes the sector before it."""

from triggers.virtio_driver import HEADER, MAP, NOTIFY, OUT, block_request, initialise, program, store

from hvfuzz.bugs import Bug
from hvfuzz.machine.devices.virtio.blk import VirtioBlk

ORIGINAL = VirtioBlk._answer


def replacement(self, chain):
    written = ORIGINAL(self, chain)
    self.private[1023] = 0x77
    return written


BUG = Bug(
    name="disk-write-astray",
    replaces="hvfuzz.machine.devices.virtio.blk:VirtioBlk._answer",
    replacement=replacement,
    findings=("exits/device/mmio_write",),
    trigger=program(MAP, initialise(), block_request(OUT, (0x41000, 512, 0)), store(HEADER + 8, 2), NOTIFY),
)
