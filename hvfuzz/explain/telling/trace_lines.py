"""A recording as the lines of `hvfuzz repro --trace`, with what every op repeats folded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final

from hvfuzz.explain.recording.recorded_moments import (
    Access,
    Cached,
    Call,
    Copy,
    Dropped,
    Exit,
    FrameFreed,
    FrameTaken,
    LeafGone,
    LeafSet,
    Moment,
    OpBegins,
    OpEnds,
    Recording,
    Return,
    Step,
    Walk,
)
from hvfuzz.explain.telling.moment_words import KINDS, words
from hvfuzz.machine.addresses import PAGE_SIZE, WRITE

LEGEND: Final = (
    "An op begins with its number and ends with its outcome (=). Between them, in the order of their time:",
    *(f"  {kind:7} {meaning}" for kind, meaning in KINDS.items()),
    "  !       a finding, at the moment at which an oracle noticed it",
    "What every op repeats is folded: the write and the fetch of a call's arguments, and table entries that are read.",
)
"""What the words at the beginning of the lines mean."""
FOLDED: Final = (Step, LeafSet, LeafGone, Cached, Dropped, Copy, Access, FrameTaken, FrameFreed)
MOST: Final = 3
"""Moments of the same kind of FOLDED, one after the other, that stay when folded."""


def trace_lines(recording: Recording, *, verbose: bool = False) -> Iterator[str]:
    """The trace; `verbose` folds nothing."""
    for op in _ops(recording.moments):
        if verbose:
            for moment in op:
                yield from words(moment)
        else:
            yield from _folded(_merged(_without_arguments(op)))


def _ops(moments: Iterable[Moment]) -> Iterator[list[Moment]]:
    """The moments of each op, and of what is between ops."""
    group: list[Moment] = []
    for moment in moments:
        if isinstance(moment, OpBegins) and group:
            yield group
            group = []
        group.append(moment)
    if group:
        yield group


def _without_arguments(moments: Sequence[Moment]) -> Iterator[Moment]:
    """Leave out how a call's arguments come to the hypervisor: a page that is written, a header and a body fetched."""
    asked = False
    for at, moment in enumerate(moments):
        match moment:
            case Access(who, _, size, access) if size == PAGE_SIZE and access == WRITE and not who.device:
                continue
            case Exit():
                asked = True
            case Call():
                asked = False
            case Copy(write=False) if asked and any(isinstance(later, Call) for later in moments[at:]):
                continue
        yield moment


def _merged(moments: Iterable[Moment]) -> Iterator[Moment]:
    """Neighbouring frames, pages and leaves that have the same done to them become one moment."""
    last: Moment | None = None
    for moment in moments:
        merged = None if last is None else _both(last, moment)
        if merged is None:
            if last is not None:
                yield last
            last = moment
        else:
            last = merged
    if last is not None:
        yield last


def _both(one: Moment, two: Moment) -> Moment | None:
    """One moment for both, if `two` goes on where `one` ends."""
    if isinstance(one, FrameTaken | FrameFreed) and isinstance(two, FrameTaken | FrameFreed):
        following: Moment = one._replace(hfn=one.hfn + one.frames, frames=two.frames)
    elif isinstance(one, LeafSet | LeafGone) and isinstance(two, LeafSet | LeafGone):
        following = one._replace(page=one.page + one.frames, hfn=one.hfn + one.frames, frames=two.frames)
    else:
        return None
    same = type(one) is type(two) and following == two
    return one._replace(frames=one.frames + two.frames) if same else None


def _folded(moments: Iterable[Moment]) -> Iterator[str]:
    """The lines of one op; of many alike in a row, steps or others, the first ones and a summary of the rest."""
    for _, alike in groupby(_steps(moments), key=_pattern):
        steps = list(alike)
        most = MOST if len(steps) > MOST + 1 else len(steps)
        for step in steps[:most]:
            yield from _rows(step)
        rest = [moment for step in steps[most:] for moment in step]
        if rest:
            yield f"        {'':7} ... {len(steps) - most} more such steps"
            frames = (moment for moment in rest if isinstance(moment, FrameTaken | FrameFreed))
            yield from _rows(list(_merged(frames)))


def _steps(moments: Iterable[Moment]) -> Iterator[list[Moment]]:
    """Each step with what happens in it; what comes before the first one is a group of its own."""
    group: list[Moment] = []
    for moment in moments:
        if isinstance(moment, Walk):
            continue
        if isinstance(moment, Step | Return | OpEnds) and group:
            yield group
            group = []
        group.append(moment)
    if group:
        yield group


def _pattern(step: Sequence[Moment]) -> tuple[object, ...]:
    """What steps that are alike have in common: the kinds of their moments, in order."""
    return tuple(moment.name if isinstance(moment, Step) else type(moment) for moment in step)


def _rows(moments: Sequence[Moment]) -> Iterator[str]:
    """The lines of moments; of many of one kind in a row, the first ones and the number of the others."""
    for kind, group in groupby(moments, key=type):
        row = list(group)
        most = MOST if kind in FOLDED and len(row) > MOST + 1 else len(row)
        for moment in row[:most]:
            yield from words(moment)
        if len(row) > most:
            yield f"        {'':7} ... {len(row) - most} more like the last"
