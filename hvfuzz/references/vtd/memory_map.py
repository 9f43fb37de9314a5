"""Memory map shared by our model and QEMU: the tables, the queue and the data pages of all cases."""

from typing import Final

from hvfuzz.machine.addresses import PAGE_SHIFT


def _distant_frames(count: int) -> list[int]:
    """`count` frame addresses that differ pairwise in at least four bits.

    So an entry with one or two wrong bits never points to another of these frames.
    """
    frames: list[int] = []
    candidate = 0x1003
    while len(frames) < count:
        if all((candidate ^ frame).bit_count() >= 4 for frame in frames):
            frames.append(candidate)
        candidate += 1
    return [frame << PAGE_SHIFT for frame in frames]


_FRAMES: Final = _distant_frames(34)
ROOT, CONTEXTS, OTHER_ROOT, OTHER_CONTEXTS, QUEUE, STATUS, SCRATCH = _FRAMES[:7]
TABLES: Final = (tuple(_FRAMES[8:12]), tuple(_FRAMES[12:16]))
"""By device: the tables that a case may fill, of level 1, 2, 3, 4."""
SCRATCH_TABLES: Final = tuple(_FRAMES[16:20])
"""Tables of level 1 to 4 that map SCRATCH to itself; they never change."""
PAGES: Final = tuple(_FRAMES[20:34])
"""Data pages of 4 KiB."""
LARGE_PAGES: Final = {2: (0x2A00_0000, 0x3460_0000), 3: (0x4000_0000, 0)}
"""Data pages of 2 MiB and 1 GiB, by the level of their leaf."""
NOWHERE: Final = 0x48_0000_0000
"""A 39-bit address without memory."""


def index(iova: int, level: int) -> int:
    """Index of the entry of a level-`level` table that translates `iova`."""
    return iova >> 3 + 9 * level & 511


def slot(tables: tuple[int, ...], iova: int, level: int) -> int:
    """Hpa of the entry that translates `iova` at `level`; `tables` are those of level 1, 2, 3, 4."""
    return tables[level - 1] + 8 * index(iova, level)


SCRATCH_WORDS: Final = {
    slot(SCRATCH_TABLES, SCRATCH, level): (SCRATCH_TABLES[level - 2] if level > 1 else SCRATCH) | 3
    for level in (4, 3, 2, 1)
}
"""{hpa: word} of SCRATCH_TABLES."""
