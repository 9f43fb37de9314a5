"""Program text for the triggers of virtio faults: a driver that brings up the block device of the world `virtio`.

The driver owns dom1's device 2 and four pages at IOVA 0x40000, the guest's gfn 0x40: the queue in the first page, data
in the others. The addresses below are IOVAs; the CPU reaches the same bytes at DIRECT + IOVA.
"""

from typing import Final

MAP: Final = "device.dma_map(dom1, iova=0x40000, gfn=0x40, count=4, rights=R|W)"
DESCRIPTORS: Final = 0x40000
AVAILABLE: Final = 0x40100
USED: Final = 0x40200
HEADER: Final = 0x40300
"""The header of a block request: type and sector (VIRTIO 1.2, 5.2.6)."""
STATUS: Final = 0x40310
"""The byte in which the device returns how the request ended."""

INDIRECT: Final = 1 << 28
LOG_ALL: Final = 1 << 26
VERSION_1: Final = 1 << 32
"""Feature bits (VIRTIO 1.2, 6)."""

IN: Final = 0
OUT: Final = 1
FLUSH: Final = 4
GET_ID: Final = 8
"""Types of a block request (VIRTIO 1.2, 5.2.6)."""

NEXT: Final = 1
DEVICE_WRITES: Final = 2
"""Flags of a descriptor (VIRTIO 1.2, 2.7.5)."""


def register_write(name: str, value: int) -> str:
    """Write one register of the device."""
    return f"mmio_write(dom1, device=2, register={name}, size=8, value={value:#x})"


def store(iova: int, value: int, size: int = 8) -> str:
    """Store to the driver's pages with the CPU."""
    return f"store(dom1, gva=DIRECT+{iova:#x}, size={size}, value={value:#x})"


NOTIFY: Final = register_write("NOTIFY", 0)


def initialise(features: int = VERSION_1 | INDIRECT) -> list[str]:
    """Negotiate `features`, then set up queue 0 and go live (VIRTIO 1.2, 3.1.1)."""
    return [
        register_write("DEVICE_STATUS", 0x3),  # ACKNOWLEDGE, DRIVER
        register_write("DRIVER_FEATURES", features),
        register_write("DEVICE_STATUS", 0xB),  # and FEATURES_OK
        register_write("QUEUE_DESC", DESCRIPTORS),
        register_write("QUEUE_DRIVER", AVAILABLE),
        register_write("QUEUE_DEVICE", USED),
        register_write("QUEUE_ENABLE", 1),
        register_write("DEVICE_STATUS", 0xF),  # and DRIVER_OK
    ]


def descriptor(number: int, iova: int, length: int, flags: int, following: int = 0) -> list[str]:
    """Fill descriptor `number` of the table (VIRTIO 1.2, 2.7.5)."""
    at = DESCRIPTORS + 16 * number
    return [store(at, iova), store(at + 8, length | flags << 32 | following << 48)]


def make_available(head: int, index: int) -> list[str]:
    """Offer the chain that begins at descriptor `head` as entry `index` of the available ring."""
    return [store(AVAILABLE + 4 + 2 * index, head, 2), store(AVAILABLE + 2, index + 1, 2)]


def block_request(kind: int, *data: tuple[int, int, int], status: tuple[int, int] = (STATUS, 1)) -> list[str]:
    """Make a block request of type `kind` available (VIRTIO 1.2, 5.2.6).

    Its chain is the header, the buffers of `data` as (iova, length, flags), and `status` as (iova, length).
    """
    lines = [store(HEADER, kind), store(HEADER + 8, 0), *descriptor(0, HEADER, 16, NEXT, 1)]
    for number, (iova, length, flags) in enumerate(data, 1):
        lines += descriptor(number, iova, length, flags | NEXT, number + 1)
    return [*lines, *descriptor(len(data) + 1, *status, DEVICE_WRITES), *make_available(0, 0)]


def program(*parts: str | list[str]) -> str:
    """The text of a program in the world `virtio` that runs `parts`, each one op or several, in order."""
    lines = [line for part in parts for line in ([part] if isinstance(part, str) else part)]
    return "\n".join(["# hvp 1", "world virtio", *lines, ""])
