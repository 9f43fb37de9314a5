"""Explains the findings of a program: records a run, judges what it shows, and puts the explanation together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final, NamedTuple

from hvfuzz.bugs import Bug
from hvfuzz.explain.judgement.causes import Cause, cause_of
from hvfuzz.explain.judgement.checks import checks_of
from hvfuzz.explain.judgement.chosen_operands import operands_of
from hvfuzz.explain.judgement.frame_lives import FrameLives
from hvfuzz.explain.judgement.rule_words import words_of
from hvfuzz.explain.judgement.severity import TITLES, Verdict, severity_of
from hvfuzz.explain.judgement.slicing import relevant_ops
from hvfuzz.explain.recording.recorded_moments import (
    Boot,
    Exit,
    Found,
    Moment,
    OpBegins,
    OpEnds,
    Place,
    Recording,
    Step,
)
from hvfuzz.explain.recording.recorder import Recorder
from hvfuzz.explain.recording.running_code import replaced
from hvfuzz.explain.recording.subjects import subjects_of
from hvfuzz.explain.telling.explanation import (
    CheckLine,
    Explanation,
    FoundLine,
    FrameStory,
    LifeLine,
    OpLine,
    OwnerRun,
    PathStory,
    PlaceLine,
)
from hvfuzz.explain.telling.outcomes import outcome_text
from hvfuzz.explain.telling.path_stories import path_story
from hvfuzz.guest.format.text import render_op
from hvfuzz.guest.program.ops import OpKind
from hvfuzz.guest.program.program import Program
from hvfuzz.oracles.framework.all_oracles import ORACLES
from hvfuzz.oracles.framework.finding import Finding
from hvfuzz.targets.pairs.plans import leaving_out
from hvfuzz.targets.pairs.sampled_target import SampledTarget
from hvfuzz.targets.target import Run

LAWS: Final = {f"{oracle.name}/{rule}": law for oracle in ORACLES for rule, law in oracle.rules.items()}
"""oracle/rule -> the law, as its oracle states it."""
NOTHING_RECORDED: Final = Recording(Boot((), (), ()), ())
MOST_FRAMES: Final = 3
MOST_EVENTS: Final = 12
"""Frames, and events of one, that an explanation tells."""
MOST_PLACES: Final = 5
EVERYWHERE: Final = ("hvfuzz.hypervisor.core.dispatch", "hvfuzz.hypervisor.core.exits", "hvfuzz.hypervisor.core.host")
"""Modules through which every exit, or every access to memory, goes."""


class Replay(NamedTuple):
    """A recorded run, and the explanation of what it found; None if that is nothing."""

    run: Run
    recording: Recording
    told: Explanation | None


def replay(program: Program, bug: Bug | None = None, shown: str = "") -> Replay:
    """Run `program`, record it and explain what is found. The slice of the explanation costs a second run.

    `shown` is the identity of the finding that is to be shown, "" for any: see `SampledTarget`.
    """
    recorder = Recorder(bug)
    with SampledTarget(bug, observer=recorder, shown=shown) as target:
        run = target.run(program, digest=True)
        recording = recorder.recording
        if not run.findings:
            return Replay(run, recording, None)
        cause = cause_of(run.findings)
        lives = FrameLives(recording)
        at = _place(recording, cause.root)
        frames = subjects_of(cause.root.message).frames
        every = frozenset(range(len(program.ops)))
        kept = relevant_ops(program, max(cause.root.op, 0), frames, lives) if every else every
        if kept != every:
            again = target.run(leaving_out(program, every - kept, target.catalogue)).findings
            if cause.root.identity not in {finding.identity for finding in again}:
                kept = every
    out = len(every - kept)
    return Replay(run, recording, _put_together(program, bug, recording, cause, lives, at, frames, sorted(kept), out))


def explain(program: Program, bug: Bug | None = None, shown: str = "") -> Explanation | None:
    """The explanation of `replay`."""
    return replay(program, bug, shown).told


def explain_without_run(program: Program, bug: Bug | None, findings: Sequence[Finding]) -> Explanation:
    """Explain findings about a program that ends its process, so that no run of it can be recorded."""
    every = range(len(program.ops))
    lives = FrameLives(NOTHING_RECORDED)
    return _put_together(program, bug, NOTHING_RECORDED, cause_of(findings), lives, 0, (), every, 0)


def _put_together(
    program: Program,
    bug: Bug | None,
    recording: Recording,
    cause: Cause,
    lives: FrameLives,
    at: int,
    frames: Sequence[int],
    kept: Sequence[int],
    left_out: int,
) -> Explanation:
    root = cause.root
    verdicts = {
        finding: severity_of(finding, recording, lives, _place(recording, finding), _caller(program, finding))
        for finding in (root, *cause.follows)
    }
    worst = max(verdicts.values(), key=lambda verdict: verdict.severity)
    words = words_of(root.oracle, root.rule)
    forgotten = f"The hypervisor {words.forgotten}."
    lines = tuple(_op_line(program, recording, number) for number in kept)
    last = next((line for line in lines if line.number == root.op), None)
    kind = program.ops[root.op].kind if 0 <= root.op < len(program.ops) else None
    return Explanation(
        severity=TITLES[worst.severity],
        title=f"{words.weakness} in {root.operation}",
        paragraph=_paragraph(root, worst, forgotten, last),
        evidence=worst.evidence,
        bug="" if bug is None else f"{bug.name}: {bug.title}" if bug.title else bug.name,
        ops=lines,
        left_out=left_out,
        forgotten=forgotten,
        checked=() if kind is None else _checked(kind),
        frames=tuple(_story(hfn, lives, at) for hfn in frames[:MOST_FRAMES]),
        paths=_paths(recording, root),
        owners_before=_runs(lives.owners(0)),
        owners_after=_runs(lives.owners(at)),
        operands=operands_of(recording, root, at),
        places=_places(recording, root, at, bug, kind),
        root=_found_line(root, verdicts[root]),
        follows=tuple(_found_line(finding, verdicts[finding]) for finding in cause.follows),
    )


def _paragraph(root: Finding, worst: Verdict, forgotten: str, last: OpLine | None) -> str:
    """What happened, what was forgotten, and how bad that is: three sentences that stand alone."""
    did = f"dom… performs {root.operation}." if last is None else f"The guest performs {last.text}."
    return f"{did} {forgotten[:-1]}: {root.message}. So {worst.evidence}."


def _place(recording: Recording, finding: Finding) -> int:
    """The place in the recording at which a finding was reported; its end for one from outside the run."""
    for at, moment in enumerate(recording.moments):
        if isinstance(moment, Found) and moment.finding == finding:
            return at
    return len(recording.moments)


def _caller(program: Program, finding: Finding) -> int:
    """The domain that acts in the op of the finding."""
    return program.ops[finding.op].actor.domain if 0 <= finding.op < len(program.ops) else 0


def _op_line(program: Program, recording: Recording, number: int) -> OpLine:
    op = program.ops[number]
    ends = next((each for each in recording.moments if isinstance(each, OpEnds) and each.number == number), None)
    mine = [] if ends is None else [each for each in ends.outcomes if each.op == number and each.code == op.kind.code]
    meaning = " ".join(op.kind.doc.split("\n\n")[0].split())
    text = render_op(op)
    if op.race is not None:
        text += f", raced by {render_op(op.race.op)}"
    return OpLine(
        number,
        *op.actor,
        op.kind.name,
        text,
        meaning.partition(". ")[0].rstrip(".") + ".",
        outcome_text(mine[-1]) if mine else "",
        tuple(_exits(recording, number)),
    )


def _exits(recording: Recording, number: int) -> Iterator[str]:
    """The reasons of the VM exits in op number `number`."""
    return (moment.reason for moment in _of_op(recording, number) if isinstance(moment, Exit))


def _checked(kind: OpKind) -> tuple[CheckLine, ...]:
    if kind.declaration is None:
        return ()
    return tuple(CheckLine(*check) for check in checks_of(kind.declaration))


def _story(hfn: int, lives: FrameLives, at: int) -> FrameStory:
    life = [LifeLine(event.op, event.text) for event in lives.life(hfn)]
    return FrameStory(hfn, lives.owner(hfn, at), tuple(dict.fromkeys(life[:MOST_EVENTS])))


def _places(
    recording: Recording, root: Finding, at: int, bug: Bug | None, kind: OpKind | None
) -> tuple[PlaceLine, ...]:
    """Where to look: what ran when the rule was broken, the steps before that, and what checks the call.

    Functions through which every call goes tell nothing.
    """
    found = next((each for each in recording.moments if isinstance(each, Found) and each.finding == root), None)
    running = () if found is None else found.places
    places = [(place, "ran when the rule was broken") for place in running if place.module not in EVERYWHERE]
    steps = [moment.place for moment in _of_op(recording, root.op)[:at] if isinstance(moment, Step)]
    places += [(place, "was applied before") for place in dict.fromkeys(reversed(steps))]
    if kind is not None and kind.declaration is not None:
        cls = kind.declaration.call
        places.append((Place(cls.__module__, f"{cls.__qualname__}.check", 0), "checks the call"))
    if bug is not None:
        places.insert(0, (replaced(bug), "was replaced by the planted bug"))
    unique = {
        (place.module, place.function): PlaceLine(_file(place), place.function, why) for place, why in places[::-1]
    }
    return tuple(reversed(unique.values()))[:MOST_PLACES]


def _of_op(recording: Recording, number: int) -> list[Moment]:
    """The moments of op number `number`."""
    inside, moments = False, []
    for moment in recording.moments:
        if isinstance(moment, OpBegins):
            inside = moment.number == number
        if inside:
            moments.append(moment)
    return moments


def _paths(recording: Recording, root: Finding) -> tuple[PathStory, ...]:
    """The ways to the frames of the finding, when it was found. An entry that no cache contradicts is the wrong one."""
    found = next((each for each in recording.moments if isinstance(each, Found) and each.finding == root), None)
    return tuple(path_story(path) for path in (() if found is None else found.paths))


def _runs(owners: Sequence[str]) -> tuple[OwnerRun, ...]:
    """Neighbouring frames of one owner together."""
    runs, first = [], 0
    for owner, group in groupby(owners):
        frames = len(list(group))
        runs.append(OwnerRun(first, frames, owner))
        first += frames
    return tuple(runs)


def _file(place: Place) -> str:
    return f"{place.module.replace('.', '/')}.py"


def _found_line(finding: Finding, verdict: Verdict) -> FoundLine:
    law = LAWS.get(f"{finding.oracle}/{finding.rule.partition(':')[0]}", "")
    return FoundLine(finding.identity, finding.op, TITLES[verdict.severity], finding.message, law)
