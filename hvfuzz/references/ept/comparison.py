"""Compares our machine with Bochs, whole outcome by whole outcome, in batches of cases.

Three outcomes are known for each case: ours, that of the manual, and that of the manual with all of Bochs's quirks. The
first must be the second, and Bochs must give the third.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, NamedTuple

from hvfuzz.references.bochs import emulator
from hvfuzz.references.ept import disk_image
from hvfuzz.references.ept.case import Case, Kind, Outcome
from hvfuzz.references.ept.cases.random_cases import mixed_cases
from hvfuzz.references.ept.manual.prediction import predict
from hvfuzz.references.ept.memory_map import NAMES, REGION_SIZE, TABLES_SIZE, WATCHED, tables
from hvfuzz.references.ept.model import Model
from hvfuzz.references.ept.quirks import QUIRKS
from hvfuzz.references.reference import (
    MAX_DIFFERENCES,
    Difference,
    Quirk,
    Report,
    changed_verdict,
    verdict_counts,
)

BATCH = 20_000
"""Number of cases for which Bochs is started once."""
_START_TIMEOUT = 600.0
_CASE_TIMEOUT = 0.1
"""Seconds to boot, and for each case, after which Bochs hangs: a thousand times what it takes on an idle machine."""


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
    initial = tables(assembled("guest.asm"))
    questions = [(case, _stored(case, initial)) for case in cases]
    disk, results = disk_image.encode_disk(assembled("stub.asm"), initial, questions)
    data = emulator.run(disk, results, _START_TIMEOUT + len(cases) * _CASE_TIMEOUT)
    outcomes = disk_image.decode_results(data, questions)
    return [BochsAnswer(case, stored, outcome) for (case, stored), outcome in zip(questions, outcomes, strict=True)]


def _stored(case: Case, initial: bytes) -> tuple[int, ...]:
    """Hpas of the words that a case stores to, by the manual or with the quirks of Bochs."""
    if case.kind not in (Kind.STORE, Kind.UPDATE):
        return ()
    return tuple(sorted({hpa for some in ((), QUIRKS) for hpa in predict(case, initial, some).stored}))


class Verdict(NamedTuple):
    """The result of a case: the outcomes that differ, if any, and the quirks that changed the verdict."""

    ours: Outcome
    """Our outcome, or the one that is expected of Bochs."""
    other: Outcome
    """The manual's, if ours differs from that; else that of Bochs."""
    by_manual: bool
    quirks: tuple[Quirk, ...]

    @property
    def differs(self) -> bool:
        return self.ours != self.other


class Comparator:
    """Compares outcomes of Bochs, and ours, with the manual."""

    def __init__(self) -> None:
        self._initial: Final = tables(assembled("guest.asm"))
        self._model: Final = Model(self._initial)

    def judge(self, answer: BochsAnswer) -> Verdict:
        """The verdict of a case."""
        case, stored, reference = answer
        ours = self._model.run(case, stored)
        demanded = predict(case, self._initial, (), stored).outcome
        if ours != demanded:
            return Verdict(ours, demanded, True, ())
        expected, _, used = predict(case, self._initial, QUIRKS, stored)
        changed: list[Quirk] = []
        if expected == reference and used:
            changed = changed_verdict(
                [quirk for quirk in QUIRKS if quirk in used],
                lambda some: predict(case, self._initial, some, stored).outcome,
                reference,
            )
        return Verdict(expected, reference, False, tuple(changed))


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
        changed: Counter[str] = Counter()
        done = 0
        source: Iterator[Case] = mixed_cases(cases, seed)
        while len(differences) < MAX_DIFFERENCES and (some := list(islice(source, BATCH))):
            for answer in run_in_bochs(some):
                verdict = comparator.judge(answer)
                changed.update(quirk.name for quirk in verdict.quirks)
                if verdict.differs:
                    differences.append(
                        Difference(
                            done,
                            f"{answer.case}{' (by the manual)' if verdict.by_manual else ''}",
                            describe(verdict.ours, verdict.other, answer.stored),
                            describe(verdict.other, verdict.ours, answer.stored),
                        )
                    )
                done += 1
                if done % 500 == 0:
                    progress(done)
                if len(differences) == MAX_DIFFERENCES:
                    break
        seconds = time.monotonic() - start
        return Report(self.name, version, seed, done, seconds, tuple(differences), verdict_counts(QUIRKS, changed))
