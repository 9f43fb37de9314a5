"""The map of frame owners: a cell for each frame, before and after, with the frames of the finding in a ring."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from hvfuzz.explain.pictures.svg import box, picture, text
from hvfuzz.explain.telling.explanation import Explanation, OwnerRun

COLUMNS: Final = 128
CELL: Final = 4
GAP: Final = 28
TOP: Final = 44


def owner_map(told: Explanation, *, alone: bool = False) -> str:
    """Both maps, one below the other, and a legend. "" if the run could not be recorded."""
    if not told.owners_before:
        return ""
    frames = sum(run.frames for run in told.owners_before)
    tall = -(-frames // COLUMNS) * CELL
    width, height = COLUMNS * CELL + 20, TOP + 2 * (tall + GAP) + 10
    named = [frame.hfn for frame in told.frames]
    legend = dict.fromkeys(_kind(run.owner) for run in (*told.owners_before, *told.owners_after))
    parts = []
    x = 8
    for kind, name in legend:
        parts += [box(x, 8, 12, 12, kind), text(x + 16, 19, name, "soft")]
        x += 30 + 7 * len(name)
    for row, (title, runs) in enumerate((("at boot", told.owners_before), ("in the end", told.owners_after))):
        top = TOP + row * (tall + GAP)
        parts.append(text(8, top - 6, title))
        parts += _cells(runs, 8, top)
        parts += _rings(named, frames, 8, top)
    title = f"Map of frame owners, with a ring around {', '.join(f'frame {hfn:#x}' for hfn in named) or 'no frame'}"
    return picture(max(width, x), height, title, parts, alone=alone)


def _cells(runs: Iterable[OwnerRun], left: int, top: int) -> Iterator[str]:
    """The frames of each run: one box for each row that it covers."""
    for first, frames, owner in runs:
        kind, _ = _kind(owner)
        place, end = first, first + frames
        while place < end:
            row, column = divmod(place, COLUMNS)
            count = min(COLUMNS - column, end - place)
            if column == 0 and end - place >= COLUMNS:
                rows = (end - place) // COLUMNS
                yield box(left, top + row * CELL, COLUMNS * CELL, rows * CELL, kind, owner)
                place += rows * COLUMNS
                continue
            yield box(left + column * CELL, top + row * CELL, count * CELL, CELL, kind, owner)
            place += count


def _rings(named: Iterable[int], frames: int, left: int, top: int) -> Iterator[str]:
    for hfn in named:
        if hfn < frames:
            row, column = divmod(hfn, COLUMNS)
            yield box(left + column * CELL - 5, top + row * CELL - 5, CELL + 10, CELL + 10, "ring", f"frame {hfn:#x}")


def _kind(owner: str) -> tuple[str, str]:
    """The class of an owner, and its name in the legend."""
    if owner.startswith("dom") and owner[3:].isdigit():
        return f"own{int(owner[3:]) % 4}", owner
    if "page table" in owner:
        return "table", "page tables"
    if "device" in owner:
        return "device", "reserved for a device"
    return ("free", "free") if owner.startswith("nobody") else ("host", "hypervisor")
