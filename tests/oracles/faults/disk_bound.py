"""A disk can be written one sector beyond its end: in C, a heap overflow of 512 bytes."""

from triggers.virtio_driver import HEADER, MAP, NOTIFY, OUT, block_request, initialise, program, store

from hvfuzz.bugs import Bug


def replacement(sector, size):
    return not size % 512 and sector <= 16 and sector * 512 + size <= 17 * 512


BUG = Bug(
    name="disk-bound",
    replaces="hvfuzz.machine.devices.virtio.blk:on_disk",
    replacement=replacement,
    findings=("exits/dma/mmio_write",),
    trigger=program(MAP, initialise(), block_request(OUT, (0x41000, 512, 0)), store(HEADER + 8, 16), NOTIFY),
)
