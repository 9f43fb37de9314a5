"""The frame table: one word for each host frame, with its owner, state and reference counts."""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from hvfuzz.hypervisor.core.host import HostBug, HostFault, HostMemory
from hvfuzz.machine.addresses import LARGE_FRAMES

OWNER_NONE = 0xFF
OWNER_HYPERVISOR = 0xFE
OWNER_MASK = 0xFF

STATE_SHIFT = 8
MAPS_SHIFT = 16
PINS_SHIFT = 32
GRANTS_SHIFT = 48
COUNT_MASK = 0xFFFF
ONE_MAP = 1 << MAPS_SHIFT
ONE_PIN = 1 << PINS_SHIFT
ONE_GRANT = 1 << GRANTS_SHIFT
_STATE_FIELD = 0xFF << STATE_SHIFT
_SHARING_FIELDS = (COUNT_MASK << PINS_SHIFT) | (COUNT_MASK << GRANTS_SHIFT)

_BLOCK = Struct(f"<{LARGE_FRAMES}Q")

FRAME_TABLE_BASE = 0x1000
"""Host physical address of the table; frame 0 is the hypervisor's control area."""


class FrameState(IntEnum):
    """Use of a frame."""

    FREE = 0
    HYPERVISOR = 1
    TABLE = 2
    """A table page that hardware walks (EPT, IOMMU); owned by the domain whose pool it comes from."""
    OWNED = 3
    SHARED = 4
    """Owned by a domain, and granted or pinned."""
    POOL = 5
    """A free table page in a domain's pool."""
    RESERVED = 6
    """Reserved by firmware for a device, the only one that may access it; owned by the hypervisor."""


_OWNED = FrameState.OWNED << STATE_SHIFT
_SHARED = FrameState.SHARED << STATE_SHIFT


class Frame(NamedTuple):
    """A decoded frame word.

    `maps` counts the 4 KiB-equivalent leaf mappings that name the frame, `pins` the live sides of grant mappings,
    `grants` the live grant entries.
    """

    owner: int
    state: FrameState
    maps: int
    pins: int
    grants: int


FREE_WORD = OWNER_NONE | FrameState.FREE << STATE_SHIFT


def decode(word: int) -> Frame:
    """Decode a word of the frame table."""
    return Frame(
        word & OWNER_MASK,
        FrameState(word >> STATE_SHIFT & 0xFF),
        word >> MAPS_SHIFT & COUNT_MASK,
        word >> PINS_SHIFT & COUNT_MASK,
        word >> GRANTS_SHIFT,
    )


class FrameTable:
    """The words of all `count` frames, at host physical address `base`."""

    __slots__ = ("base", "count", "host")

    def __init__(self, host: HostMemory, base: int = FRAME_TABLE_BASE) -> None:
        self.host = host
        self.base = base
        self.count = host.memory.frames

    def address(self, hfn: int) -> int:
        """Host physical address of the frame's word; raises `HostFault` if there is no such frame."""
        if not 0 <= hfn < self.count:
            raise HostFault(f"no frame {hfn:#x}")
        return self.base + 8 * hfn

    def word(self, hfn: int) -> int:
        """The frame's word, encoded."""
        return self.host.read64(self.base + 8 * hfn if 0 <= hfn < self.count else self.address(hfn))

    def frame(self, hfn: int) -> Frame:
        """The frame's word, decoded."""
        return decode(self.word(hfn))

    def owner(self, hfn: int) -> int:
        """The owning domain, OWNER_NONE or OWNER_HYPERVISOR."""
        return self.word(hfn) & OWNER_MASK

    def assign(self, hfn: int, owner: int, state: FrameState, frames: int = 1) -> None:
        """Set owner and state of `frames` frames from `hfn` on, with all counts zero."""
        word = owner | state << STATE_SHIFT
        if frames == 1:
            self.host.write64(self.address(hfn), word)
            return
        self.address(hfn + frames - 1)  # if the last one exists, all do
        self.host.write(self.address(hfn), word.to_bytes(8, "little") * frames)

    def add_map(self, hfn: int) -> None:
        """Add one leaf mapping of the frame."""
        self._add(hfn, ONE_MAP, MAPS_SHIFT)

    def drop_map(self, hfn: int) -> None:
        """Drop one leaf mapping of the frame."""
        self._drop(hfn, ONE_MAP, MAPS_SHIFT)

    def add_block_map(self, hfn: int) -> None:
        """Add one leaf mapping of each of the 512 frames from `hfn` on."""
        words = self._block(hfn)
        if any(word >> MAPS_SHIFT & COUNT_MASK == COUNT_MASK for word in dict.fromkeys(words)):
            raise HostBug(f"a count in block {hfn:#x} overflows")
        self._write_block(hfn, words, ONE_MAP)

    def drop_block_map(self, hfn: int) -> None:
        """Drop one leaf mapping of each of the 512 frames from `hfn` on."""
        words = self._block(hfn)
        if any(word >> MAPS_SHIFT & COUNT_MASK == 0 for word in dict.fromkeys(words)):
            raise HostBug(f"a count in block {hfn:#x} falls below zero")
        self._write_block(hfn, words, -ONE_MAP)

    def add_pin(self, hfn: int) -> None:
        """Add one live side of a grant mapping."""
        self._add(hfn, ONE_PIN, PINS_SHIFT)

    def drop_pin(self, hfn: int) -> None:
        """Drop one live side of a grant mapping."""
        self._drop(hfn, ONE_PIN, PINS_SHIFT)

    def add_grant(self, hfn: int) -> None:
        """Add one grant entry that names the frame."""
        self._add(hfn, ONE_GRANT, GRANTS_SHIFT)

    def drop_grant(self, hfn: int) -> None:
        """Drop one grant entry that names the frame."""
        self._drop(hfn, ONE_GRANT, GRANTS_SHIFT)

    def _add(self, hfn: int, one: int, shift: int) -> None:
        host = self.host
        address = self.base + 8 * hfn if 0 <= hfn < self.count else self.address(hfn)
        word = host.read64(address)
        if word >> shift & COUNT_MASK == COUNT_MASK:
            raise HostBug(f"a count of frame {hfn:#x} overflows")
        host.write64(address, self.settled(word + one))

    def _drop(self, hfn: int, one: int, shift: int) -> None:
        host = self.host
        address = self.base + 8 * hfn if 0 <= hfn < self.count else self.address(hfn)
        word = host.read64(address)
        if word >> shift & COUNT_MASK == 0:
            raise HostBug(f"a count of frame {hfn:#x} falls below zero")
        host.write64(address, self.settled(word - one))

    def _block(self, hfn: int) -> tuple[int, ...]:
        self.address(hfn + LARGE_FRAMES - 1)  # if the last one exists, all do
        return _BLOCK.unpack(self.host.read(self.address(hfn), _BLOCK.size))

    def _write_block(self, hfn: int, words: tuple[int, ...], change: int) -> None:
        first = words[0]
        if words.count(first) == LARGE_FRAMES:  # the usual case: a new block, or one about to be freed
            data = (first + change).to_bytes(8, "little") * LARGE_FRAMES
        else:
            data = _BLOCK.pack(*[word + change for word in words])
        self.host.write(self.address(hfn), data)

    @staticmethod
    def settled(word: int) -> int:
        """`word` with the state that follows from its counts: SHARED while pinned or granted, else OWNED."""
        state = word & _STATE_FIELD
        if state == _OWNED:
            return word & ~_STATE_FIELD | _SHARED if word & _SHARING_FIELDS else word
        if state == _SHARED:
            return word if word & _SHARING_FIELDS else word & ~_STATE_FIELD | _OWNED
        return word
