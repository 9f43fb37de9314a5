"""The comparison: batches of cases go through our machine and through Bochs, and whole outcomes must be equal."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from hvfuzz.references.ept import bochs, disk_image
from hvfuzz.references.ept.case import Case, Kind, Outcome
from hvfuzz.references.ept.cases.random_cases import mixed_cases
from hvfuzz.references.ept.memory_map import NAMES, WATCHED, tables
from hvfuzz.references.ept.model import Model
from hvfuzz.references.ept.quirks import QUIRKS, as_taken, with_quirks
from hvfuzz.references.reference import MAX_DIFFERENCES, Difference, Quirk, Report

BATCH = 20_000
"""Cases that one start of Bochs runs."""
_START_TIMEOUT = 120.0
_CASE_TIMEOUT = 0.01
"""Seconds that Bochs may take to boot, and for a case: some hundred times what it takes."""


class Answered(NamedTuple):
    """A case, the words that it may store to, and what Bochs made of it."""

    case: Case
    stored: tuple[int, ...]
    reference: Outcome


def ask(cases: list[Case]) -> list[Answered]:
    """What Bochs makes of cases, at most BATCH. Raises ReferenceError if it is not installed, or dies."""
    code = bochs.assembled("guest.asm")
    model = Model(tables(code))
    questions = [(case, _stored(model, case)) for case in cases]
    disk, results = disk_image.encode_disk(bochs.assembled("stub.asm"), tables(code), questions)
    data = bochs.run(disk, results, _START_TIMEOUT + len(cases) * _CASE_TIMEOUT)
    outcomes = disk_image.decode_results(data, questions)
    return [Answered(case, stored, outcome) for (case, stored), outcome in zip(questions, outcomes, strict=True)]


def _stored(model: Model, case: Case) -> tuple[int, ...]:
    """Hpas of the words that a case stores to, by the manual or by the quirks."""
    stored: set[int] = set()
    if case.kind in (Kind.STORE, Kind.UPDATE):
        for taken in (case, as_taken(case)):
            model.run(taken)
            stored.update(model.guest.stored)
    return tuple(sorted(stored))


class Judge:
    """Compares answers of Bochs with a machine of ours."""

    def __init__(self) -> None:
        self._model = Model(tables(bochs.assembled("guest.asm")))

    def judge(self, answer: Answered) -> tuple[Outcome, tuple[Quirk, ...]]:
        """Our outcome, as the quirks that it returns make it; unequal to that of Bochs where nothing explains it."""
        case, stored, reference = answer
        ours = self._model.run(case, stored)
        if ours == reference:
            return ours, ()
        expected, quirks = with_quirks(self._model, case, ours, stored)
        if expected == reference and quirks:
            return expected, quirks
        return ours, ()


def describe(outcome: Outcome, other: Outcome, stored: tuple[int, ...]) -> str:
    """One line: how the outcome ends, and the words in which it differs from the other one."""
    names = [*(NAMES[hpa] for hpa in WATCHED), *(f"[{hpa:#x}]" for hpa in stored)]
    parts = [outcome.stop.name]
    parts += [
        f"{name}={value:#x}"
        for name, value in outcome._asdict().items()
        if name not in ("stop", "memory") and (value or name == "rax")
    ]
    parts += [
        f"{name}={mine:#x}" for name, mine, its in zip(names, outcome.memory, other.memory, strict=True) if mine != its
    ]
    return " ".join(parts)


class EptReference:
    """EPT under VMX, in Debian's Bochs."""

    name = "ept"
    installation = bochs.INSTALLATION
    quirks = QUIRKS

    def compare(self, cases: int, seed: int, progress: Callable[[int], None]) -> Report:
        """As the protocol says."""
        version = bochs.version()
        start = time.monotonic()
        judge = Judge()
        differences: list[Difference] = []
        quirks: Counter[str] = Counter()
        done = 0
        source: Iterator[Case] = mixed_cases(cases, seed)
        while len(differences) < MAX_DIFFERENCES and (some := list(islice(source, BATCH))):
            for answer in ask(some):
                expected, explained = judge.judge(answer)
                quirks.update(quirk.name for quirk in explained)
                if expected != answer.reference:
                    differences.append(
                        Difference(
                            done,
                            str(answer.case),
                            describe(expected, answer.reference, answer.stored),
                            describe(answer.reference, expected, answer.stored),
                        )
                    )
                done += 1
                if done % 500 == 0:
                    progress(done)
                if len(differences) == MAX_DIFFERENCES:
                    break
        seconds = time.monotonic() - start
        return Report(self.name, version, seed, done, seconds, tuple(differences), dict(quirks))
