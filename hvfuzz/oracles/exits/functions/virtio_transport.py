"""Second model of what virtio functions share: negotiation, set-up of queues, and writes with their log (VIRTIO 1.2).

Registers are words of 8 bytes, by the names of 4.1.4.3 and 4.2.2. As with MMIO, the interrupt status is acknowledged by
a register of its own. Bit n of the log at LOG_BASE says that the page of device addresses n << 12 was written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hvfuzz.machine.addresses import PAGE_SHIFT, U64
from hvfuzz.oracles.exits.functions import virtqueues
from hvfuzz.oracles.exits.functions.second_function import Blocked, Bus, SecondFunction, Steps, within_pages
from hvfuzz.oracles.exits.functions.virtqueues import Queue, Violation

ERROR, ID = 0x28 // 8, 0x30 // 8
DEVICE_FEATURES, DRIVER_FEATURES = 0x40 // 8, 0x48 // 8
QUEUE_SELECT, QUEUE_SIZE, QUEUE_ENABLE = 0x50 // 8, 0x58 // 8, 0x78 // 8
"""The words from QUEUE_SIZE to QUEUE_ENABLE are those of the selected queue."""
NOTIFY, DEVICE_STATUS, ISR, ACK, GENERATION, LOG_BASE = range(0x80 // 8, 0xB0 // 8)
CONFIG: Final = 0xC0 // 8
WINDOW: Final = 26
"""Words before those of the queues."""
MAGIC: Final = 0x7472_6976_0000_0000
""" "virt" in the upper half of ID; the device id (5) is in the lower one."""

S_DRIVER_OK, S_FEATURES_OK, S_NEEDS_RESET = 4, 8, 64
S_SETTABLE: Final = 1 | 2 | S_DRIVER_OK | S_FEATURES_OK | 128
"""ACKNOWLEDGE, DRIVER and FAILED are the others (2.1)."""
I_QUEUE, I_CONFIGURATION = 1, 2
F_LOG_ALL, F_INDIRECT, F_EVENT_INDEX, F_VERSION_1 = 1 << 26, 1 << 28, 1 << 29, 1 << 32
SHARED_FEATURES: Final = F_LOG_ALL | F_INDIRECT | F_EVENT_INDEX | F_VERSION_1


class VirtioFunction(SecondFunction):
    """A virtio function; a subclass says in `serve` what a notification of a queue does."""

    def __init__(
        self, bus: Bus, bdf: int, name: str, device: int, features: int, queues: int, config: int, private: int = 0
    ) -> None:
        """`device` is the device id, `features` are those beyond the shared ones, `config` is the configuration."""
        words = [0] * (WINDOW + queues * virtqueues.WORDS)
        words[ID] = MAGIC | device
        words[DEVICE_FEATURES] = SHARED_FEATURES | features
        words[CONFIG] = config
        places = range(WINDOW, len(words), virtqueues.WORDS)
        for place in places:
            words[place + virtqueues.SIZE] = virtqueues.MOST
        super().__init__(bus, bdf, name, words, private)
        self.queues: Final[Sequence[Queue]] = [Queue(self, number, place) for number, place in enumerate(places)]

    def serve(self, queue: Queue) -> Steps[None]:
        """What a notification of `queue` makes the device do. Raises Violation, Blocked."""
        raise NotImplementedError

    @property
    def has_event_index(self) -> bool:
        """Whether EVENT_IDX is negotiated."""
        return bool(self.registers[DRIVER_FEATURES] & F_EVENT_INDEX)

    @property
    def has_indirect(self) -> bool:
        """Whether indirect descriptors are negotiated."""
        return bool(self.registers[DRIVER_FEATURES] & F_INDIRECT)

    # Registers.

    def word(self, number: int) -> int:
        """The words of a queue that does not exist read as zero."""
        if QUEUE_SIZE <= number <= QUEUE_ENABLE:
            selected = self.registers[QUEUE_SELECT]
            return self.queues[selected][number - QUEUE_SIZE] if selected < len(self.queues) else 0
        return self.registers[number] if number < WINDOW else 0

    def write_word(self, number: int, value: int) -> Steps[None]:
        """Set a register, notify a queue, or take a step of the initialisation (3.1.1)."""
        registers = self.registers
        if number == NOTIFY:
            yield from self._notify(value)
        elif QUEUE_SIZE <= number <= QUEUE_ENABLE:
            if registers[QUEUE_SELECT] < len(self.queues):
                self._set_up(self.queues[registers[QUEUE_SELECT]], number - QUEUE_SIZE, value)
        elif number == DEVICE_STATUS:
            self._set_status(value)
        elif number == DRIVER_FEATURES and not registers[DEVICE_STATUS] & S_FEATURES_OK:
            registers[number] = value
        elif number == QUEUE_SELECT:
            registers[number] = value & 0xFFFF
        elif number == LOG_BASE:
            registers[number] = value
        elif number == ACK:
            registers[ISR] &= ~value

    def _set_up(self, queue: Queue, word: int, value: int) -> None:
        """A queue is set up before it is enabled (4.1.4.3.2), after the features were agreed on."""
        agreed = self.registers[DEVICE_STATUS] & S_FEATURES_OK
        valid = {virtqueues.SIZE: value in (1, 2, 4, 8, 16), virtqueues.ENABLED: value == 1 and agreed}
        if not queue[virtqueues.ENABLED] and valid.get(word, True):
            queue[word] = value

    def _set_status(self, value: int) -> None:
        """Zero is a reset by the driver, which a disk survives; FEATURES_OK may be refused (2.1, 2.4)."""
        registers = self.registers
        if not value:
            registers[:] = self.power_on
            return
        status, features = registers[DEVICE_STATUS], registers[DRIVER_FEATURES]
        acceptable = features & F_VERSION_1 and not features & ~registers[DEVICE_FEATURES]
        agreed = status & S_FEATURES_OK or (value & S_FEATURES_OK and acceptable)
        kept = value & S_SETTABLE & ~(S_FEATURES_OK | S_DRIVER_OK) | status & S_NEEDS_RESET
        registers[DEVICE_STATUS] = kept | (S_FEATURES_OK | value & S_DRIVER_OK if agreed else 0)

    def act(self) -> Steps[None]:
        """Serve every queue, in the order of their numbers."""
        for number in range(len(self.queues)):
            yield from self._notify(number)

    def _notify(self, number: int) -> Steps[None]:
        """Serve an enabled queue of a live device; what goes wrong is told as a change of configuration (2.1.2)."""
        registers = self.registers
        status = registers[DEVICE_STATUS]
        live = status & S_DRIVER_OK and not status & S_NEEDS_RESET
        if not live or number >= len(self.queues) or not self.queues[number][virtqueues.ENABLED]:
            return
        try:
            yield from self.serve(self.queues[number])
        except (Violation, Blocked) as problem:
            if isinstance(problem, Blocked):
                registers[ERROR] = problem.iova
            registers[DEVICE_STATUS] |= S_NEEDS_RESET
            registers[ISR] |= I_CONFIGURATION
            registers[GENERATION] = registers[GENERATION] + 1 & U64

    def interrupt(self) -> None:
        """Tell that a buffer was used."""
        self.registers[ISR] |= I_QUEUE

    # Memory.

    def get(self, iova: int, size: int, what: str) -> Steps[bytes]:
        """Read a range, page by page. Raises Blocked."""
        data = b""
        for place, _, length in within_pages(iova, size):
            data += yield from self.load(place, length, what)
        return data

    def put(self, iova: int, data: bytes, what: str) -> Steps[None]:
        """Write a range, page by page, and log each page once it is written. Raises Blocked."""
        logged = self.registers[DRIVER_FEATURES] & F_LOG_ALL
        for place, at, length in within_pages(iova, len(data)):
            yield from self.store(place, data[at : at + length], what)
            if logged:
                page = place >> PAGE_SHIFT
                byte = self.registers[LOG_BASE] + page // 8 & U64
                name = f"log of page {page:#x}"
                before = yield from self.load(byte, 1, name)
                yield from self.store(byte, bytes([before[0] | 1 << page % 8]), name)
