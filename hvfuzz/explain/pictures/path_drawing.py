"""A way through tables: the entries from left to right, the frame at the end, and what a cache says beside it."""

from __future__ import annotations

from typing import Final

from hvfuzz.explain.pictures.svg import arrow, box, picture, text
from hvfuzz.explain.telling.explanation import PathStory

WIDTH: Final = 196
HEIGHT: Final = 62
GAP: Final = 30
TOP: Final = 40


def draw_path(path: PathStory, *, alone: bool = False) -> str:
    """One box for each entry; the offending one, or the cache's, is marked."""
    count = len(path.entries)
    width = 16 + max(count, 2) * (WIDTH + GAP)
    height = TOP + HEIGHT + 20 + (HEIGHT + 24 if path.cached else 0)
    parts = [text(8, 20, path.address, "mono")]
    for column, entry in enumerate(path.entries):
        x = 8 + column * (WIDTH + GAP)
        parts.append(box(x, TOP, WIDTH, HEIGHT, "wrong" if entry.wrong else "box"))
        parts.append(text(x + 8, TOP + 18, f"level {entry.level}: frame {entry.table:#x}[{entry.slot:#x}]", "soft"))
        parts.append(text(x + 8, TOP + 36, f"{entry.entry:#x}", "mono"))
        parts.append(text(x + 8, TOP + 53, entry.says, "bad-ink" if entry.wrong else "soft"))
        if column + 1 < count:
            parts.append(arrow(x + WIDTH, TOP + HEIGHT / 2, x + WIDTH + GAP, TOP + HEIGHT / 2))
    if path.cached:
        y = TOP + HEIGHT + 24
        wide = 2 * WIDTH + GAP
        parts += [box(8, y, wide, HEIGHT - 16, "wrong"), text(16, y + 19, path.cached, "mono")]
        parts.append(text(16, y + 36, "stale: the tables above say otherwise", "bad-ink"))
    said = "; ".join(f"level {entry.level}: {entry.says}" for entry in path.entries)
    stale = f"; but {path.cached}" if path.cached else ""
    return picture(width, height, f"The way from {path.address}: {said}{stale}", parts, alone=alone)
