"""Draws a two-dimensional walk as SVG: one row per guest-physical address, its EPT entries from left to right."""

from html import escape
from typing import Final

from hvfuzz.targets.emulated.page_walk import FLAGS, LEVELS, Leg, Walk
from hvfuzz.targets.emulated.page_walk import TOP as TOP_LEVEL

WIDTH: Final = 168
HEIGHT: Final = 46
GAP: Final = 14
LEFT: Final = 190
TOP: Final = 78
COLOURS: Final = {"ept": "#dbe9f6", "guest": "#e3f4dc", "cached": "#fff3c4", "failed": "#f8d2d2", "page": "#d7f0ee"}


def draw(walk: Walk) -> str:
    """Return the SVG document."""
    rows = max(len(walk.legs), 1)
    width, height = LEFT + 6 * (WIDTH + GAP) + GAP, TOP + rows * (HEIGHT + GAP) + 40
    access = {"r": "read", "w": "write", "x": "fetch"}[walk.access]
    mode = "user" if walk.user else "supervisor"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="ui-monospace, Menlo, Consolas, monospace" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(GAP, 26, f"gva {walk.gva:#x}: {mode} {access} by {walk.who}", size=15, bold=True),
        *(
            _text(LEFT + column * (WIDTH + GAP), TOP - 14, title, colour="#666")
            for column, title in enumerate(("EPT PML4E", "EPT PDPTE", "EPT PDE", "EPT PTE", "host", "guest's entry"))
        ),
    ]
    if walk.hit:
        parts.append(_box(LEFT, TOP, "cached", "TLB", "combined mapping"))
    for number, leg in enumerate(walk.legs):
        parts += _row(leg, TOP + number * (HEIGHT + GAP))
    colour = "#b00020" if walk.hpa is None else "black"
    parts.append(_text(GAP, height - 16, summary(walk), size=14, bold=True, colour=colour))
    return "\n".join([*parts, "</svg>", ""])


def summary(walk: Walk) -> str:
    """The result of a walk and its number of references, in one line."""
    began = f", started at the {walk.began}" if walk.began not in ("", LEVELS[TOP_LEVEL]) else ""
    return f"{walk.outcome}  ({walk.references} table references, {walk.hits} cache hits{began})"


def _row(leg: Leg, y: int) -> list[str]:
    name = "flags" if leg.level == FLAGS else LEVELS[leg.level]
    parts = [_text(GAP, y + 19, name, bold=True), _text(GAP, y + 36, f"gpa {leg.gpa:#x}", colour="#444")]
    if leg.cached:
        parts.append(_box(LEFT, y, "cached", "TLB", "guest-physical mapping"))
    if leg.structure is not None:
        # Drawn in place of the entries it saved: for stage 2, to the left of the first entry that was read.
        column = 0 if leg.structure.stage == 1 else 4 - leg.structure.level
        stage = "EPT " if leg.structure.stage == 2 else ""
        title = f"cached {stage}{LEVELS[leg.structure.level]}"
        parts.append(_box(_column(column), y, "cached", title, f"-> {leg.structure.table:#x}"))
    for number, reference in enumerate(leg.references, 1):
        failed = leg.hpa is None and leg.level != FLAGS and number == len(leg.references)
        where = f"{reference.table:#x}[{reference.slot}]"
        column = 4 - reference.level
        parts.append(_box(_column(column), y, "failed" if failed else "ept", where, f"{reference.entry:#x}"))
    if leg.hpa is not None:
        parts.append(_box(_column(4), y, "page" if leg.level == 0 else "ept", "hpa", f"{leg.hpa:#x}"))
    if leg.entry is not None:
        parts.append(_box(_column(5), y, "guest" if leg.entry & 1 else "failed", name, f"{leg.entry:#x}"))
    return parts


def _column(number: int) -> int:
    return LEFT + number * (WIDTH + GAP)


def _box(x: int, y: int, kind: str, title: str, text: str) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="5" fill="{COLOURS[kind]}" stroke="#8896a5"/>'
        + _text(x + 8, y + 19, title)
        + _text(x + 8, y + 36, text, colour="#333")
    )


def _text(x: int, y: int, text: str, *, size: int = 12, bold: bool = False, colour: str = "black") -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{colour}"{weight}>{escape(text)}</text>'
