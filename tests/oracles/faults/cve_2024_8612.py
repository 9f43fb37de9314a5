"""CVE-2024-8612 (QEMU virtio): what a device did not write of a buffer reaches the guest from the host's own memory.

Data goes to the guest through a bounce buffer in the hypervisor's heap that nobody has cleared. Simplified: only the
serial number of a disk goes that way.
"""

from triggers.virtio_driver import DEVICE_WRITES, GET_ID, MAP, NOTIFY, block_request, initialise, program

from hvfuzz.bugs import Bug
from hvfuzz.machine.devices.virtio.blk import REQUEST, SERIAL, VirtioBlk
from hvfuzz.machine.devices.virtio.virtqueue import length

ORIGINAL = VirtioBlk._answer


def replacement(self, chain):
    kind, _, _ = REQUEST.unpack(self.gather(chain.readable, 0, REQUEST.size))
    if kind != GET_ID:
        return ORIGINAL(self, chain)
    room = length(chain.writable) - 1
    bounce = heap_page(self.machine.memory)
    self.scatter(chain.writable, 0, (SERIAL + bounce)[:room])
    self.scatter(chain.writable, room, b"\0")
    return room + 1


def heap_page(memory):
    """A page of the heap: its frame word says state HYPERVISOR (1), owner the hypervisor (0xFE)."""
    for hfn in range(memory.frames - 1, 0, -1):
        if memory.words[0x200 + hfn] & 0xFFFF == 0x1FE and any(memory.data[(hfn << 12) + 0x400 : (hfn << 12) + 0x800]):
            return bytes(memory.data[(hfn << 12) + 0x400 : hfn + 1 << 12])
    return bytes(0xC00)


BUG = Bug(
    name="cve-2024-8612",
    advisory="CVE-2024-8612",
    replaces="hvfuzz.machine.devices.virtio.blk:VirtioBlk._answer",
    replacement=replacement,
    findings=("exits/dma/mmio_write",),
    trigger=program(MAP, initialise(), block_request(GET_ID, (0x41000, 0x200, DEVICE_WRITES)), NOTIFY),
)
