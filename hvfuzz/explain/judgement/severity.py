"""How bad a finding is, derived from what the broken rule allows and from what happened in the run."""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Final, NamedTuple

from hvfuzz.explain.judgement.frame_lives import FrameLives
from hvfuzz.explain.judgement.rule_words import Harm, words_of
from hvfuzz.explain.judgement.subjects import subjects_of
from hvfuzz.explain.recording.moments import Cached, Dropped, FrameFreed, FrameTaken, LeafGone, LeafSet, Recording
from hvfuzz.machine.addresses import WRITE
from hvfuzz.oracles.framework.finding import Finding


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


TITLES: Final = {
    Severity.CONTRACT: "BROKEN CONTRACT",
    Severity.STOP: "STOP OF THE HOST",
    Severity.LEAK: "LEAK",
    Severity.ESCAPE_READ: "ESCAPE (READ)",
    Severity.ESCAPE_WRITE: "ESCAPE (WRITE)",
}
_WRITES: Final = re.compile(r"\b(writes?|copies [0-9]+ bytes to|copies to|changes|with rights [2367]|overwrit\w+)\b")
_READS: Final = re.compile(r"\b(reads?|copies [0-9]+ bytes from|copies from|loads?|executes)\b")


class Verdict(NamedTuple):
    """A severity, and the evidence for it in one sentence."""

    severity: Severity
    evidence: str


def severity_of(finding: Finding, recording: Recording, lives: FrameLives, at: int) -> Verdict:
    """The severity of `finding`, which was found at place `at` of the recording."""
    harm = words_of(finding.oracle, finding.rule).harm
    match harm:
        case Harm.STOP:
            return Verdict(Severity.STOP, "one guest stops the host, or keeps it busy, and with it all other domains")
        case Harm.LEAK:
            return Verdict(Severity.LEAK, "a guest learns what belongs to another owner")
        case Harm.STATE:
            return Verdict(Severity.ESCAPE_WRITE, "a guest changes the state of another vCPU")
        case Harm.CONTRACT:
            return Verdict(Severity.CONTRACT, "the hypervisor breaks its contract; by itself this reaches nothing")
    subjects = subjects_of(finding.message)
    owners = {hfn: lives.owner(hfn, at) for hfn in subjects.frames}
    own = bool(owners) and set(owners.values()) <= {f"dom{number}" for number in subjects.domains[:1]}
    if own and not _changes_hands(recording, set(owners), at):
        # As after a lost right: nobody else's memory is concerned.
        return Verdict(Severity.CONTRACT, f"only memory of {next(iter(owners.values()))} itself is reached")
    victim = next((f"frame {hfn:#x}, which belongs to {owner}" for hfn, owner in owners.items()), "memory of others")
    if _writes(finding.message, recording, subjects.frames):
        return Verdict(Severity.ESCAPE_WRITE, f"a guest can write to {victim}")
    return Verdict(Severity.ESCAPE_READ, f"a guest can read {victim}")


def _writes(message: str, recording: Recording, frames: tuple[int, ...]) -> bool:
    """Whether memory can be written: the message says so, or a translation that leads there allows it.

    Without evidence that it can only be read, it counts as writable.
    """
    if _WRITES.search(message):
        return True
    if _READS.search(message):
        return False
    rights = [
        moment.rights
        for moment in (*recording.boot.cached, *recording.boot.leaves, *recording.moments)
        if isinstance(moment, Cached | Dropped | LeafSet | LeafGone) and moment.hfn in frames
    ]
    return not rights or any(right & WRITE for right in rights)


def _changes_hands(recording: Recording, frames: set[int], at: int) -> bool:
    """Whether any of the frames is freed or allocated at `at` or later: then it gets another owner."""
    return any(
        isinstance(moment, FrameFreed | FrameTaken)
        and any(moment.hfn <= hfn < moment.hfn + moment.frames for hfn in frames)
        for moment in recording.moments[at:]
    )
