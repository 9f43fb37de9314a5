"""The life of a frame: whose it was at boot, and each moment of a run at which that, or who can reach it, changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from hvfuzz.explain.recording.in_words import cached_text, owner_name, place_of, who_text
from hvfuzz.explain.recording.recorded_moments import (
    Access,
    Cached,
    Copy,
    Dropped,
    Found,
    FrameFreed,
    FrameTaken,
    LeafGone,
    LeafSet,
    OpBegins,
    Recording,
)
from hvfuzz.hypervisor.memory.frames import OWNER_NONE, FrameState
from hvfuzz.machine.addresses import EXEC, PAGE_MASK, PAGE_SHIFT, WRITE, rights_text

BOOT: Final = -1
"""Instead of the number of an op."""
FREE: Final = "free"


class Event(NamedTuple):
    """Something that happened to a frame in op number `op`, at place `at` in the recording; BOOT for both before it."""

    op: int
    at: int
    text: str


class FrameLives:
    """Answers questions about the frames of one recording."""

    def __init__(self, recording: Recording) -> None:
        self._recording: Final = recording

    def owner(self, hfn: int, at: int) -> str:
        """Who has frame `hfn` just before place `at` in the recording: "dom1", "the hypervisor", FREE …"""
        words = self._recording.boot.frame_words
        if not 0 <= hfn < len(words):
            return "nobody: there is no memory"
        owner, state = words[hfn] & 0xFF, words[hfn] >> 8 & 0xFF
        for moment in self._recording.moments[:at]:
            if isinstance(moment, FrameTaken | FrameFreed) and moment.hfn <= hfn < moment.hfn + moment.frames:
                owner, state = _after(moment, owner, state)
        return owner_name(owner, state)

    def owners(self, at: int) -> list[str]:
        """Who has each frame just before place `at`, as `owner` says for one of them."""
        words = self._recording.boot.frame_words
        states = [(word & 0xFF, word >> 8 & 0xFF) for word in words]
        for moment in self._recording.moments[:at]:
            if isinstance(moment, FrameTaken | FrameFreed):
                for hfn in range(moment.hfn, min(moment.hfn + moment.frames, len(states))):
                    states[hfn] = _after(moment, *states[hfn])
        return [owner_name(*state) for state in states]

    def life(self, hfn: int) -> Iterator[Event]:
        """The life of frame `hfn`, from boot on."""
        boot = self._recording.boot
        yield Event(BOOT, BOOT, f"belongs to {self.owner(hfn, 0)} at boot")
        for leaf in boot.leaves:
            if leaf.hfn <= hfn < leaf.hfn + leaf.frames:
                yield Event(BOOT, BOOT, f"is mapped at {place_of(leaf.space, leaf.page + hfn - leaf.hfn)}")
        for entry in boot.cached:
            if entry.hfn == hfn:
                yield Event(BOOT, BOOT, f"is cached: {cached_text(entry)}")
        op = BOOT
        for at, moment in enumerate(self._recording.moments):
            if isinstance(moment, OpBegins):
                op = moment.number
            text = _text(moment, hfn)
            if text:
                yield Event(op, at, text)


def _after(moment: FrameTaken | FrameFreed, owner: int, state: int) -> tuple[int, int]:
    """Owner and state of a frame after it was allocated or freed.

    A table page goes back to the pool of its domain; any other frame is free.
    """
    if isinstance(moment, FrameTaken):
        return moment.owner, moment.state
    return (owner, FrameState.POOL) if state == FrameState.TABLE else (OWNER_NONE, FrameState.FREE)


def _text(moment: object, hfn: int) -> str:
    match moment:
        case FrameTaken(first, frames, owner, state) if first <= hfn < first + frames:
            return f"is allocated: it belongs to {owner_name(owner, state)} now"
        case FrameFreed(first, frames) if first <= hfn < first + frames:
            return "is freed"
        case LeafSet(space, page, frames, first, rights, foreign) if first <= hfn < first + frames:
            how = ", by a grant" if foreign else ""
            return f"is mapped at {place_of(space, page + hfn - first)}, rights {rights_text(rights)}{how}"
        case LeafGone(space, page, frames, first, rights) if first <= hfn < first + frames:
            return f"loses its mapping at {place_of(space, page + hfn - first)}, or rights of it"
        case Cached(_, _, _, named, _) if named == hfn:
            return f"is cached: {cached_text(moment)}"
        case Dropped(_, _, _, named, _) if named == hfn:
            return f"is dropped from a cache: {cached_text(moment)}"
        case Access(who, hpa, size, access) if hpa >> PAGE_SHIFT <= hfn <= hpa + size - 1 >> PAGE_SHIFT:
            verb = "writes to" if access & WRITE else "executes" if access & EXEC else "reads from"
            return f"{who_text(who)} {verb} it: {size} bytes at offset {hpa & PAGE_MASK:#x}"
        case Copy(who, _, hpa, size, write, _) if hpa >> PAGE_SHIFT <= hfn <= hpa + size - 1 >> PAGE_SHIFT:
            verb = "to it" if write else "from it"
            return f"the hypervisor copies {size} bytes {verb}, for {who_text(who)}"
        case Found(finding, _, _) if f"frame {hfn:#x} " in f"{finding.message} ":
            return f"! {finding.identity}"
    return ""
