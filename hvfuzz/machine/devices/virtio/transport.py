"""Base class of virtio devices: negotiation, queues, DMA to buffers, and the log of written pages.

VIRTIO 1.2, modern interface (2.1 to 2.7, 4.2.2), with 8-byte registers. As with MMIO (4.2.2), ISR is acknowledged by
the separate register ACK, so that reads have no side effects.
"""

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, U64
from hvfuzz.machine.devices.pci_function import Bus, Device
from hvfuzz.machine.devices.virtio.register_map import (
    COMMON_FEATURES,
    DRIVER_OK,
    EVENT_IDX,
    FEATURES_OK,
    INDIRECT_DESC,
    ISR_CONFIG,
    ISR_QUEUE,
    LOG_ALL,
    NEEDS_RESET,
    QUEUE_FIRST,
    QUEUE_LAST,
    STATUS_BITS,
    VERSION_1,
    VIRTIO_ID,
    WINDOW_WORDS,
    Register,
)
from hvfuzz.machine.devices.virtio.virtqueue import (
    ENABLE,
    MAX_SIZE,
    QUEUE_WORDS,
    SIZE,
    U16,
    Malformed,
    Segment,
    Virtqueue,
)
from hvfuzz.machine.vtd.iommu import DmaFault


class VirtioDevice(Device):
    """A virtio device. A subclass implements `serve`, and passes its parameters to the constructor.

    `registers` is the register file: the window, then QUEUE_WORDS for each queue. If a driver breaks the rules of a
    ring, or the IOMMU blocks one of its buffers, NEEDS_RESET is set (2.1.2). Effects until then remain.
    """

    __slots__ = ("_power_on", "queues")

    def __init__(
        self, machine: Bus, bdf: int, name: str, *, kind: int, features: int, queues: int, config: tuple[int, ...]
    ) -> None:
        """`kind` is the device id (5), `features` are those beyond COMMON_FEATURES, `config` has at most two words."""
        super().__init__(machine, bdf, name)
        words = [0] * (WINDOW_WORDS + queues * QUEUE_WORDS)
        words[Register.ID >> 3] = VIRTIO_ID | kind
        words[Register.DEVICE_FEATURES >> 3] = COMMON_FEATURES | features
        words[Register.CONFIG >> 3 : (Register.CONFIG >> 3) + len(config)] = config
        for queue in range(queues):
            words[WINDOW_WORDS + queue * QUEUE_WORDS + SIZE] = MAX_SIZE
        self._power_on: tuple[int, ...] = tuple(words)
        self.registers[:] = words
        self.queues: tuple[Virtqueue, ...] = tuple(
            Virtqueue(self, WINDOW_WORDS + queue * QUEUE_WORDS) for queue in range(queues)
        )

    def serve(self, number: int) -> None:
        """Process the available chains of queue `number`. Raises Malformed, DmaFault."""
        raise NotImplementedError

    def reset(self) -> None:
        """Reset all registers, and the internal memory."""
        self.restart()
        self.private[:] = bytes(len(self.private))

    def restart(self) -> None:
        """The reset by the driver (2.4): registers only."""
        self.registers[:] = self._power_on

    # Registers.

    @property
    def indirect(self) -> bool:
        """Whether indirect descriptors are negotiated."""
        return self.registers[Register.DRIVER_FEATURES >> 3] & INDIRECT_DESC != 0

    @property
    def event_index(self) -> bool:
        """Whether EVENT_IDX is negotiated."""
        return self.registers[Register.DRIVER_FEATURES >> 3] & EVENT_IDX != 0

    def read_register(self, register: int) -> int:
        index = register >> 3
        if QUEUE_FIRST <= index <= QUEUE_LAST:
            queue = self.registers[Register.QUEUE_SELECT >> 3]
            if queue >= len(self.queues):
                return 0
            index += WINDOW_WORDS + queue * QUEUE_WORDS - QUEUE_FIRST
            return self.registers[index]
        return self.registers[index] if index < WINDOW_WORDS else 0

    def write_register(self, register: int, value: int) -> None:
        registers = self.registers
        if register == Register.NOTIFY:
            self._notified(value)
        elif QUEUE_FIRST <= register >> 3 <= QUEUE_LAST:
            queue = registers[Register.QUEUE_SELECT >> 3]
            if queue < len(self.queues):
                self._set_up(self.queues[queue], (register >> 3) - QUEUE_FIRST, value)
        elif register == Register.DEVICE_STATUS:
            self._set_status(value)
        elif register == Register.DRIVER_FEATURES:
            if not registers[Register.DEVICE_STATUS >> 3] & FEATURES_OK:
                registers[register >> 3] = value
        elif register == Register.QUEUE_SELECT:
            registers[register >> 3] = value & U16
        elif register == Register.LOG_BASE:
            registers[register >> 3] = value
        elif register == Register.ACK:
            registers[Register.ISR >> 3] &= ~value

    def _set_up(self, queue: Virtqueue, word: int, value: int) -> None:
        """Write a register of a queue; ignored if the queue is enabled or the value is invalid (4.1.4.3)."""
        if queue.enabled:
            return
        if word == SIZE and (not 0 < value <= MAX_SIZE or value & value - 1):
            return
        if word == ENABLE and (value != 1 or not self.registers[Register.DEVICE_STATUS >> 3] & FEATURES_OK):
            return
        self.registers[queue.base + word] = value

    def _set_status(self, value: int) -> None:
        """The steps of initialization (3.1.1); DRIVER_OK requires FEATURES_OK, which requires acceptable features."""
        if not value:
            self.restart()
            return
        registers = self.registers
        status, features = registers[Register.DEVICE_STATUS >> 3], registers[Register.DRIVER_FEATURES >> 3]
        if not features & VERSION_1 or features & ~registers[Register.DEVICE_FEATURES >> 3]:
            value &= ~FEATURES_OK
        value = value & STATUS_BITS | status & (NEEDS_RESET | FEATURES_OK)
        registers[Register.DEVICE_STATUS >> 3] = value if value & FEATURES_OK else value & ~DRIVER_OK

    def _notified(self, number: int) -> None:
        """Serve a queue, if the device is running and the queue is enabled."""
        registers = self.registers
        status = registers[Register.DEVICE_STATUS >> 3]
        if not status & DRIVER_OK or status & NEEDS_RESET or number >= len(self.queues):
            return
        if not self.queues[number].enabled:
            return
        try:
            self.serve(number)
        except Malformed:
            self._give_up()
        except DmaFault as fault:
            registers[Register.ERROR >> 3] = fault.iova
            self._give_up()

    def act(self) -> None:
        """Look for buffers in every queue in turn, as if each was notified."""
        for number in range(len(self.queues)):
            self._notified(number)

    def _give_up(self) -> None:
        """Set NEEDS_RESET, and report a change of configuration (2.1.2)."""
        registers = self.registers
        registers[Register.DEVICE_STATUS >> 3] |= NEEDS_RESET
        registers[Register.ISR >> 3] |= ISR_CONFIG
        registers[Register.GENERATION >> 3] = registers[Register.GENERATION >> 3] + 1 & U64

    def raise_interrupt(self) -> None:
        """Report a used buffer."""
        self.registers[Register.ISR >> 3] |= ISR_QUEUE

    # DMA, in pieces that do not cross a page.

    def read(self, iova: int, size: int) -> bytes:
        """Read `size` bytes from `iova` on. Raises DmaFault."""
        iova &= U64
        if (iova & PAGE_MASK) + size <= PAGE_SIZE:
            return self.dma_read(iova, size)
        first = PAGE_SIZE - (iova & PAGE_MASK)
        pieces = [self.dma_read(iova, first)]
        for at in range(first, size, PAGE_SIZE):
            pieces.append(self.dma_read(iova + at & U64, min(PAGE_SIZE, size - at)))
        return b"".join(pieces)

    def write(self, iova: int, data: bytes) -> None:
        """Write `data` from `iova` on, page by page, and log each page if LOG_ALL is negotiated. Raises DmaFault."""
        logged = self.registers[Register.DRIVER_FEATURES >> 3] & LOG_ALL
        at = 0
        while at < len(data):
            piece = data[at : at + PAGE_SIZE - (iova + at & PAGE_MASK)]
            page = iova + at & U64
            self.dma_write(page, piece)
            if logged:
                self._log(page >> PAGE_SHIFT)
            at += len(piece)

    def _log(self, page: int) -> None:
        byte = self.registers[Register.LOG_BASE >> 3] + (page >> 3) & U64
        before = self.dma_read(byte, 1)[0]
        self.dma_write(byte, bytes((before | 1 << (page & 7),)))

    def gather(self, segments: tuple[Segment, ...], offset: int, size: int) -> bytes:
        """Read up to `size` bytes of the buffers, from `offset` on. Raises DmaFault."""
        pieces = []
        for iova, length in segments:
            if offset < length and size:
                piece = min(size, length - offset)
                pieces.append(self.read(iova + offset, piece))
                size -= piece
                offset = 0
            else:
                offset -= min(offset, length)
        return b"".join(pieces)

    def scatter(self, segments: tuple[Segment, ...], offset: int, data: bytes) -> None:
        """Write `data` to the buffers, from `offset` on, as far as there is room. Raises DmaFault."""
        for iova, length in segments:
            if offset < length and data:
                self.write(iova + offset, data[: length - offset])
                data = data[length - offset :]
                offset = 0
            else:
                offset -= min(offset, length)
