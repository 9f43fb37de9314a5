"""Model of the coalesced MMIO ring, from the guest's side: the effect of one queued write.

Layout: first, last (32 bits each), then 16 entries of 24 bytes: address (64 bits), length, padding (32), data (64).
Helper of the oracle `exits`; reports nothing itself.
"""

from __future__ import annotations

from typing import Final

from hvfuzz.abi.boot import COALESCED_GFN, DIRECT_MAP
from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.oracles.scene.running_call import Bytes

RING: Final = DIRECT_MAP + (COALESCED_GFN << PAGE_SHIFT)
HEADER: Final = (RING, 8)
"""(address, size) of the part that the hypervisor reads."""
ENTRIES: Final = 16
ENTRY: Final = 24


def writes(header: bytes, address: int, width: int, value: int) -> tuple[Bytes, ...]:
    """The writes to a ring with this header, in order; none if it is full or `last` is invalid."""
    first, last = int.from_bytes(header[:4], "little"), int.from_bytes(header[4:], "little")
    if last not in range(ENTRIES) or first == (last + 1) % ENTRIES:
        return ()
    entry = address | width << 64 | value << 128
    following = (last + 1) % ENTRIES
    return (
        (RING + 8 + ENTRY * last, entry.to_bytes(ENTRY, "little")),
        (RING + 4, following.to_bytes(4, "little")),
    )
