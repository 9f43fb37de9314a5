"""A read may begin in the last sector and go on for any number of sectors, which are filled with zeroes."""

from triggers.virtio_driver import DEVICE_WRITES, HEADER, IN, MAP, NOTIFY, block_request, initialise, program, store

from hvfuzz.bugs import Bug


def replacement(sector, size):
    return not size % 512 and sector < 16


BUG = Bug(
    name="disk-reads-beyond",
    replaces="hvfuzz.machine.devices.virtio.blk:on_disk",
    replacement=replacement,
    findings=("exits/dma/mmio_write",),
    trigger=program(
        MAP, initialise(), block_request(IN, (0x41000, 1024, DEVICE_WRITES)), store(HEADER + 8, 15), NOTIFY
    ),
)
