"""Where the tables, the queue and the data of all cases lie."""

from typing import Final

from hvfuzz.machine.addresses import PAGE_SHIFT


def _distant_frames(count: int) -> list[int]:
    """Frame addresses that differ from each other in four bits or more: a wrong bit or two lead to none of them."""
    frames: list[int] = []
    candidate = 0x1003
    while len(frames) < count:
        if all((candidate ^ frame).bit_count() >= 4 for frame in frames):
            frames.append(candidate)
        candidate += 1
    return [frame << PAGE_SHIFT for frame in frames]


_FRAMES: Final = _distant_frames(34)
ROOT, CONTEXTS, OTHER_ROOT, OTHER_CONTEXTS, QUEUE, STATUS, SCRATCH, SPARE_TABLE = _FRAMES[:8]
TABLES: Final = (tuple(_FRAMES[8:12]), tuple(_FRAMES[12:16]))
"""For each device the tables that a case may fill: level 1, 2, 3, 4."""
SCRATCH_TABLES: Final = tuple(_FRAMES[16:20])
"""Tables, level 1 to 4, that map SCRATCH to itself and never change."""
PAGES: Final = tuple(_FRAMES[20:34])
"""Small pages for data."""
LARGE_PAGES: Final = {2: (0x2A00_0000, 0x3460_0000), 3: (0x4000_0000, 0)}
"""Pages of 2 MiB and 1 GiB for data, by their level."""
NOWHERE: Final = 0x48_0000_0000
"""An address of 39 bits at which no memory answers."""


def index(iova: int, level: int) -> int:
    """Which entry of a table of that level translates `iova`."""
    return iova >> 3 + 9 * level & 511


def slot(tables: tuple[int, ...], iova: int, level: int) -> int:
    """Hpa of the entry of that level for `iova`."""
    return tables[level - 1] + 8 * index(iova, level)
