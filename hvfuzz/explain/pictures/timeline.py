"""The timeline: a lane for each domain and one for the hypervisor, the ops from left to right, and their VM exits."""

from __future__ import annotations

from typing import Final

from hvfuzz.explain.pictures.svg import arrow, box, line, picture, text
from hvfuzz.explain.telling.explanation import Explanation

LABEL: Final = 96
COLUMN: Final = 168
LANE: Final = 64
TOP: Final = 28
BOX: Final = 44
LETTERS: Final = 21
"""Letters of an op's name that fit its box."""
MOST: Final = 24
"""Ops that are drawn: the last ones."""


def timeline(told: Explanation, *, alone: bool = False) -> str:
    """The ops that matter, each in the lane of its domain; an exit is an arrow down to the hypervisor."""
    ops = told.ops[-MOST:]
    domains = sorted({op.domain for op in ops})
    host = TOP + LANE * len(domains)
    width, height = LABEL + COLUMN * max(len(ops), 1) + 10, host + LANE + 20
    parts = []
    for row, domain in enumerate(domains):
        middle = TOP + LANE * row + BOX / 2
        parts += [line(LABEL, middle, width - 10, middle), text(8, middle + 4, f"dom{domain}")]
    middle = host + BOX / 2
    parts += [line(LABEL, middle, width - 10, middle), text(8, middle + 4, "hypervisor")]
    for column, op in enumerate(ops):
        x, y = LABEL + COLUMN * column, TOP + LANE * domains.index(op.domain)
        parts.append(text(x, TOP - 10, f"op {op.number}", "soft"))
        parts += [box(x, y, COLUMN - 16, BOX, tip=op.text), text(x + 8, y + 18, _fit(op.name), "mono")]
        parts.append(text(x + 8, y + 35, _fit(op.outcome), "soft mono"))
        bad = op.number == told.root.op
        if op.exits:
            parts.append(arrow(x + 24, y + BOX, x + 24, host))
            kind = "wrong" if bad else "box"
            parts += [box(x, host, COLUMN - 16, BOX, kind), text(x + 8, host + 18, _fit(_exits(op.exits)), "mono")]
        if bad:
            parts.append(text(x + 8, host + 35, _fit(told.root.identity.rpartition("/")[0]), "bad-ink"))
    names = ", ".join(f"{op.name} by dom{op.domain}" for op in ops)
    return picture(width, height, f"Timeline: {names}", parts, alone=alone)


def _exits(reasons: tuple[str, ...]) -> str:
    return reasons[0] if len(reasons) == 1 else f"{len(reasons)} exits"


def _fit(words: str) -> str:
    return words if len(words) <= LETTERS else f"{words[: LETTERS - 1]}\N{HORIZONTAL ELLIPSIS}"
