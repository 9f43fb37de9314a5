"""An explanation as lines of text, for a terminal that may be narrow."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from hvfuzz.explain.telling.explanation import Explanation
from hvfuzz.explain.telling.path_stories import path_lines

WIDTH = 100
BOOT = "boot"
GUEST = "What the guest did"
FORGOTTEN = "What the hypervisor forgot"
PLACES = "Where to look in the hypervisor"
FOLLOWS = "What follows from it"
HEADINGS = (GUEST, FORGOTTEN, PLACES, FOLLOWS)


def first_paragraph(told: Explanation, width: int = WIDTH) -> Iterator[str]:
    """The title and the paragraph: what `repro`, the report and a failed test show."""
    yield f"{told.severity}: {told.title}"
    yield from textwrap.wrap(told.paragraph, width, break_long_words=False, break_on_hyphens=False)


def lines(told: Explanation, width: int = WIDTH) -> Iterator[str]:
    """All of it."""
    yield from first_paragraph(told, width)
    if told.bug:
        yield ""
        yield f"This program runs with a planted bug, {told.bug}."
    yield from _section(GUEST)
    for op in told.ops:
        yield f"  op {op.number:<3} {op.text}"
        yield from _wrapped(op.meaning, width, " " * 9)
        if op.outcome:
            yield f"         -> {op.outcome}"
    if told.left_out:
        count = "1 other op does" if told.left_out == 1 else f"{told.left_out} other ops do"
        yield f"  {count} not matter: without, the same is found."
    yield from _section(FORGOTTEN)
    yield from _wrapped(told.forgotten, width, "  ")
    if told.root.law:
        yield from _wrapped(f"The rule ({told.root.identity}): {told.root.law}.", width, "  ")
    if told.checked:
        checked = ", ".join(f"{check.reason} ({check.status})" for check in told.checked)
        yield from _wrapped(f"It checked: {checked}.", width, "  ")
    for operand in told.operands:
        yield from _wrapped(f"What the guest chose: {operand}.", width, "  ")
    for frame in told.frames:
        yield from _section(f"Frame {frame.hfn:#x}, which belongs to {frame.owner}")
        for event in frame.life:
            when = BOOT if event.op < 0 else f"op {event.op}"
            yield from _wrapped(event.text, width, f"  {when:7}")
    for path in told.paths:
        yield from _section(f"The way to it: {path.address}")
        yield from path_lines(path)
    if told.places:
        yield from _section(PLACES)
        for place in told.places:
            yield f"  {place.file}: {place.function} ({place.why})"
    if told.follows:
        yield from _section(FOLLOWS)
        for found in told.follows:
            yield f"  {found.identity} at op {found.op} [{found.severity}]"
            yield from _wrapped(found.message, width, " " * 4)


def _section(title: str) -> Iterator[str]:
    yield ""
    yield title


def _wrapped(text: str, width: int, lead: str) -> Iterator[str]:
    yield from textwrap.wrap(
        text,
        width,
        initial_indent=lead,
        subsequent_indent=" " * len(lead),
        break_long_words=False,
        break_on_hyphens=False,
    )
