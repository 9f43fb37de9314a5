"""How bad a finding is, derived from what the broken rule allows and from what happened in the run."""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Final, NamedTuple

from hvfuzz.explain.judgement.frame_lives import FrameLives
from hvfuzz.explain.judgement.rule_words import Harm, words_of
from hvfuzz.explain.recording.recorded_moments import (
    Cached,
    Dropped,
    FrameFreed,
    FrameTaken,
    LeafGone,
    LeafSet,
    Recording,
)
from hvfuzz.explain.recording.subjects import subjects_of
from hvfuzz.machine.addresses import WRITE
from hvfuzz.oracles.framework.finding import Finding
from hvfuzz.oracles.shadow.changes import DMA, name_of


class Severity(IntEnum):
    """From the least to the worst."""

    CONTRACT = 1
    """The hypervisor breaks its contract; no reach beyond the caller's own is shown."""
    STOP = 2
    """A guest stops the host, or keeps it busy, for all domains."""
    LEAK = 3
    """A guest learns contents of another owner."""
    ESCAPE_READ = 4
    """A guest can read memory of another owner."""
    ESCAPE_WRITE = 5
    """A guest can write memory of another owner, or change another vCPU: it can take over the host."""


class Verdict(NamedTuple):
    """A severity, and the evidence for it in one sentence."""

    severity: Severity
    evidence: str


TITLES: Final = {
    Severity.CONTRACT: "BROKEN CONTRACT",
    Severity.STOP: "STOP OF THE HOST",
    Severity.LEAK: "LEAK",
    Severity.ESCAPE_READ: "ESCAPE (READ)",
    Severity.ESCAPE_WRITE: "ESCAPE (WRITE)",
}
STALE: Final = "stale"
CONTENTS: Final = "contents"
BY_ITSELF: Final = Verdict(Severity.CONTRACT, "the hypervisor breaks its contract; by itself this reaches nothing")
_WRITES: Final = re.compile(r"\b(writes?|copies [0-9]+ bytes to|copies to|changes|overwrit\w+)\b")
_RIGHTS: Final = re.compile(r"\brights ([RWX]+)\b")
_READS: Final = re.compile(r"\b(reads?|copies [0-9]+ bytes from|copies from|loads?|executes)\b")


def severity_of(finding: Finding, recording: Recording, lives: FrameLives, at: int, caller: int) -> Verdict:
    """The severity of `finding`, which was found at place `at` of the recording, in an op of domain `caller`."""
    harm = words_of(finding.oracle, finding.rule).harm
    match harm:
        case Harm.STOP:
            return Verdict(Severity.STOP, "one guest stops the host, or keeps it busy, and with it all other domains")
        case Harm.LEAK if finding.oracle != CONTENTS or not _WRITES.search(finding.message):
            return Verdict(Severity.LEAK, "a guest learns what belongs to another owner")
        case Harm.STATE:
            return Verdict(Severity.ESCAPE_WRITE, "a guest changes the state of another vCPU")
        case Harm.CONTRACT:
            return BY_ITSELF
    subjects = subjects_of(finding.message)
    if not subjects.frames:
        if harm is Harm.MAY_REACH:
            return BY_ITSELF
        return _escape(_writes(finding, recording, ()), "memory that does not belong to it")
    reacher = f"dom{(*subjects.domains, caller)[0]}"
    for hfn in subjects.frames:
        owner = lives.owner(hfn, at)
        writes = _writes(finding, recording, (hfn,))
        others = _other_domains(hfn, recording, owner)
        if owner != reacher:
            return _escape(writes, f"frame {hfn:#x}, which belongs to {owner}")
        if others:
            return _escape(writes, f"frame {hfn:#x} of {owner}, from {others}")
        if _changes_hands(recording, hfn, at):
            return _escape(writes, f"frame {hfn:#x} after {owner} has given it away")
        if finding.oracle == STALE and _lost_its_leaf(recording, hfn):
            return _escape(writes, f"frame {hfn:#x} as soon as {owner} gives it away")
    return Verdict(Severity.CONTRACT, f"only memory of {reacher} itself is reached")


def _escape(writes: bool, victim: str) -> Verdict:
    severity = Severity.ESCAPE_WRITE if writes else Severity.ESCAPE_READ
    return Verdict(severity, f"a guest can {'write to' if writes else 'read'} {victim}")


def _writes(finding: Finding, recording: Recording, frames: tuple[int, ...]) -> bool:
    """Whether memory can be written: the message says so, or a translation that leads there allows it.

    Without evidence that it can only be read, it counts as writable.
    """
    if _WRITES.search(finding.message):
        return True
    told = _RIGHTS.search(finding.message)
    if told is not None:
        return "W" in told[1]
    if _READS.search(finding.message):
        return False
    rights = [
        moment.rights
        for moment in (*recording.boot.cached, *recording.boot.leaves, *recording.moments)
        if isinstance(moment, Cached | Dropped | LeafSet | LeafGone) and moment.hfn in frames
    ]
    return not rights or any(right & WRITE for right in rights)


def _changes_hands(recording: Recording, hfn: int, at: int) -> bool:
    """Whether the frame is freed or allocated at `at` or later: then it gets another owner."""
    return any(
        isinstance(moment, FrameFreed | FrameTaken) and moment.hfn <= hfn < moment.hfn + moment.frames
        for moment in recording.moments[at:]
    )


def _lost_its_leaf(recording: Recording, hfn: int) -> bool:
    """Whether a leaf for the frame is gone, and not set again."""
    lost = False
    for moment in recording.moments:
        if isinstance(moment, LeafSet | LeafGone) and moment.hfn <= hfn < moment.hfn + moment.frames:
            lost = isinstance(moment, LeafGone)
    return lost


def _other_domains(hfn: int, recording: Recording, owner: str) -> str:
    """Another domain than the owner that still has a leaf for the frame at the end; "" if there is none."""
    spaces: dict[tuple[int, int], None] = {}
    for moment in recording.moments:
        if isinstance(moment, LeafSet | LeafGone) and moment.hfn <= hfn < moment.hfn + moment.frames:
            key = moment.space, moment.page
            if isinstance(moment, LeafSet):
                spaces[key] = None
            else:
                spaces.pop(key, None)
    return next((name_of(space) for space, _ in spaces if f"dom{space & ~DMA}" != owner), "")
