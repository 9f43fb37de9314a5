"""The ring of queued writes, as the guest that drains it knows it: what one more write does to it.

Words of 32 bits: first, last; then 16 entries of 24 bytes: address (64), length, padding, data (64).
"""

from __future__ import annotations

from typing import Final

from hvfuzz.abi.boot import COALESCED_GFN, DIRECT_MAP
from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.oracles.scene.running_call import Bytes

RING: Final = DIRECT_MAP + (COALESCED_GFN << PAGE_SHIFT)
HEADER: Final = (RING, 8)
"""What is read: address and size."""
ENTRIES: Final = 16
ENTRY: Final = 24


def writes(header: bytes, address: int, width: int, value: int) -> tuple[Bytes, ...]:
    """What is written for a ring with that header, in order; nothing if it is full, or if `last` is no index."""
    first, last = int.from_bytes(header[:4], "little"), int.from_bytes(header[4:], "little")
    if last not in range(ENTRIES) or first == (last + 1) % ENTRIES:
        return ()
    entry = address | width << 64 | value << 128
    following = (last + 1) % ENTRIES
    return (
        (RING + 8 + ENTRY * last, entry.to_bytes(ENTRY, "little")),
        (RING + 4, following.to_bytes(4, "little")),
    )
