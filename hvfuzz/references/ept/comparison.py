"""Compares our machine with Bochs: both run batches of cases, and whole outcomes must be equal."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from hvfuzz.references.bochs import emulator
from hvfuzz.references.ept import disk_image
from hvfuzz.references.ept.case import Case, Kind, Outcome
from hvfuzz.references.ept.cases.random_cases import mixed_cases
from hvfuzz.references.ept.memory_map import NAMES, REGION_SIZE, TABLES_SIZE, WATCHED, tables
from hvfuzz.references.ept.model import Model
from hvfuzz.references.ept.quirks import QUIRKS, bochs_equivalent, with_quirks
from hvfuzz.references.reference import MAX_DIFFERENCES, Difference, Quirk, Report

BATCH = 20_000
"""Number of cases for which Bochs is started once."""
_START_TIMEOUT = 120.0
_CASE_TIMEOUT = 0.01
"""Seconds that Bochs may take to boot, and for each case: about a hundred times what it usually takes."""


class BochsAnswer(NamedTuple):
    """A case, the hpas of the words that it may store to, and its outcome in Bochs."""

    case: Case
    stored: tuple[int, ...]
    reference: Outcome


def assembled(source: str) -> bytes:
    """The flat binary of a file in the folder assembly. Raises ReferenceError if nasm is not installed."""
    return emulator.assembled(__package__, source, REGION_SIZE=REGION_SIZE, TABLES_SIZE=TABLES_SIZE)


def run_in_bochs(cases: list[Case]) -> list[BochsAnswer]:
    """Run at most BATCH cases in Bochs. Raises ReferenceError if it is not installed, or fails."""
    code = assembled("guest.asm")
    model = Model(tables(code))
    questions = [(case, _stored(model, case)) for case in cases]
    disk, results = disk_image.encode_disk(assembled("stub.asm"), tables(code), questions)
    data = emulator.run(disk, results, _START_TIMEOUT + len(cases) * _CASE_TIMEOUT)
    outcomes = disk_image.decode_results(data, questions)
    return [BochsAnswer(case, stored, outcome) for (case, stored), outcome in zip(questions, outcomes, strict=True)]


def _stored(model: Model, case: Case) -> tuple[int, ...]:
    """Hpas of the words that a case stores to, on our machine or with the quirks of Bochs."""
    stored: set[int] = set()
    if case.kind in (Kind.STORE, Kind.UPDATE):
        for variant in (case, bochs_equivalent(case)):
            model.run(variant)
            stored.update(model.guest.stored)
    return tuple(sorted(stored))


class Comparator:
    """Compares outcomes of Bochs with those of our machine."""

    def __init__(self) -> None:
        self._model = Model(tables(assembled("guest.asm")))

    def expect(self, answer: BochsAnswer) -> tuple[Outcome, tuple[Quirk, ...]]:
        """(expected outcome, quirks that change it): ours, or with quirks if they explain the outcome of Bochs."""
        case, stored, reference = answer
        ours = self._model.run(case, stored)
        if ours == reference:
            return ours, ()
        expected, quirks = with_quirks(self._model, case, ours, stored)
        if expected == reference and quirks:
            return expected, quirks
        return ours, ()


def describe(outcome: Outcome, other: Outcome, stored: tuple[int, ...]) -> str:
    """The outcome in one line, with the memory words in which it differs from `other`."""
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
    """Debian's Bochs, which implements EPT under VMX."""

    name = "ept"
    installation = emulator.INSTALLATION
    quirks = QUIRKS

    def compare(self, cases: int, seed: int, progress: Callable[[int], None]) -> Report:
        """See `Reference.compare`."""
        version = emulator.version()
        start = time.monotonic()
        comparator = Comparator()
        differences: list[Difference] = []
        quirks: Counter[str] = Counter()
        done = 0
        source: Iterator[Case] = mixed_cases(cases, seed)
        while len(differences) < MAX_DIFFERENCES and (some := list(islice(source, BATCH))):
            for answer in run_in_bochs(some):
                expected, explained = comparator.expect(answer)
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
