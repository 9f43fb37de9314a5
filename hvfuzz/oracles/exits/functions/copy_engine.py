"""Second model of the DMA engine, from its documentation: ABI.md, `device.dma_submit`, and its table of registers.

| offset | register | |
|---|---|---|
| 0x00, 0x08 | SRC, DST | device addresses |
| 0x10 | LENGTH | bytes; more than 8192 become 8192 |
| 0x18 | CONTROL | bit 0 starts the copy, which is done before the write is; reads as 0 |
| 0x20 | STATUS | of the last copy: 1 done, 2 blocked, 0 before the first; read only |
| 0x28 | ERROR | device address at which the last copy was blocked, else 0; read only |
| 0x30 | ID | read only |
"""

from __future__ import annotations

from typing import Final

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SIZE, U64
from hvfuzz.oracles.exits.functions.second_function import Blocked, Bus, SecondFunction, Steps

SRC, DST, LENGTH, CONTROL, STATUS, ERROR, ID, WORDS = range(8)
MOST: Final = 8192
START: Final = 1
DONE, BLOCKED = 1, 2
IDENTITY: Final = 0x0100_0061_6D64_7668
""" "hvdma", two zero bytes, 1."""


class CopyEngine(SecondFunction):
    """An engine that copies in parts that cross no page at either end, each read and written before the next."""

    kind = "DMA engine"

    def __init__(self, bus: Bus, bdf: int, name: str) -> None:
        super().__init__(bus, bdf, name, (0,) * ID + (IDENTITY,))

    def word(self, number: int) -> int:
        """The registers are as they were written, except for CONTROL."""
        return self.registers[number] if number < WORDS else 0

    def write_word(self, number: int, value: int) -> Steps[None]:
        """Keep the value, or start the copy."""
        if number in (SRC, DST):
            self.registers[number] = value
        elif number == LENGTH:
            self.registers[LENGTH] = min(value, MOST)
        elif number == CONTROL and value & START:
            yield from self.act()

    def act(self) -> Steps[None]:
        """Copy as the registers say."""
        yield from self._copy(*self.registers[:CONTROL])

    def submitted(self, source: int, target: int, length: int) -> Steps[None]:
        """What `device.dma_submit` has the engine do: one copy, programmed as a driver would."""
        for number, value in ((SRC, source), (DST, target), (LENGTH, length), (CONTROL, START)):
            yield from self.write(8 * number, 8, value)

    def _copy(self, source: int, target: int, length: int) -> Steps[None]:
        """Copy; what was written before a blocked part stays written."""
        outcome = DONE, 0
        try:
            while length:
                size = min(length, PAGE_SIZE - (source & PAGE_MASK), PAGE_SIZE - (target & PAGE_MASK))
                data = yield from self.load(source, size, "source of the copy")
                yield from self.store(target, data, "target of the copy")
                source, target, length = source + size & U64, target + size & U64, length - size
        except Blocked as blocked:
            outcome = BLOCKED, blocked.iova
        self.registers[STATUS], self.registers[ERROR] = outcome
