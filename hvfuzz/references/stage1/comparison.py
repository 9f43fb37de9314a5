"""Compares stage 1 of our MMU with Unicorn: outcomes of each case, and all of RAM after it."""

import time
from collections.abc import Callable
from itertools import islice
from typing import Final

from hvfuzz.references.reference import MAX_DIFFERENCES, Difference, Quirk, Report
from hvfuzz.references.stage1.case import Case, Outcome, changes
from hvfuzz.references.stage1.model import Model
from hvfuzz.references.stage1.quirks import EARLY_ACCESSED, without_early_accessed
from hvfuzz.references.stage1.random_cases import cases as random_cases
from hvfuzz.references.stage1.unicorn import INSTALLATION, Unicorn

_REPORTED_EVERY: Final = 256
"""Cases between two progress reports."""


class Stage1:
    """Unicorn's implementation of x86-64 4-level paging (SDM Vol. 3A, 4.5 to 4.8)."""

    @property
    def name(self) -> str:
        return "stage1"

    @property
    def installation(self) -> str:
        return INSTALLATION

    @property
    def quirks(self) -> tuple[Quirk, ...]:
        return (EARLY_ACCESSED,)

    def compare(self, cases: int, seed: int, progress: Callable[[int], None]) -> Report:
        """See `Reference.compare`."""
        model = Model()
        unicorn = Unicorn(model.initial)
        differences: list[Difference] = []
        started = time.perf_counter()
        done = early = 0
        for number, case in enumerate(islice(random_cases(seed), cases)):
            ours = model.run(case)
            unicorn.load(case.entries)
            theirs = [unicorn.access(case, access) for access in case.accesses]
            done += 1
            our_ram, raw = model.memory(), unicorn.memory()
            their_ram = without_early_accessed(case, theirs, raw)
            early += their_ram is not raw
            if ours != theirs or our_ram != their_ram:
                differences.append(
                    Difference(
                        number,
                        str(case),
                        _describe(case, ours, model.initial, our_ram),
                        _describe(case, theirs, model.initial, their_ram),
                    )
                )
                if len(differences) == MAX_DIFFERENCES:
                    break
            if not done % _REPORTED_EVERY:
                progress(done)
        seconds = time.perf_counter() - started
        progress(done)
        return Report(self.name, unicorn.version, seed, done, seconds, tuple(differences), {EARLY_ACCESSED.name: early})


def _describe(case: Case, outcomes: list[Outcome], initial: bytes, after: bytes) -> str:
    return f"{', then '.join(map(str, outcomes))}; {changes(case.entries, initial, after)}"
