"""Compares our machine with Bochs: both run batches of cases, and whole outcomes must be equal."""

import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Final, NamedTuple

from hvfuzz.machine.cpu.exception_delivery import TSS_SELECTOR
from hvfuzz.machine.mmu.ept import eptp_of
from hvfuzz.references.bochs import emulator
from hvfuzz.references.reference import (
    MAX_DIFFERENCES,
    Difference,
    Quirk,
    Report,
    changed_verdict,
    verdict_counts,
)
from hvfuzz.references.ring import disk_image
from hvfuzz.references.ring.case import Case, Outcome, State
from hvfuzz.references.ring.cases.random_cases import mixed_cases
from hvfuzz.references.ring.memory_map import EPT_ROOT, MSR_BITMAP, TABLES_SIZE, Page, gva_of
from hvfuzz.references.ring.model import Model
from hvfuzz.references.ring.quirks import QUIRKS, applicable, with_quirks

BATCH: Final = 20_000
"""Number of cases for which Bochs is started once."""
_START_TIMEOUT: Final = 120.0
_CASE_TIMEOUT: Final = 0.01
"""Seconds that Bochs may take to boot, and for each case: about twenty times what it usually takes."""
_GDT_LIMIT: Final = TSS_SELECTOR + 15


def assembled() -> bytes:
    """The stub. Raises ReferenceError if nasm is not installed."""
    return emulator.assembled(
        __package__,
        "stub.asm",
        REGION_SIZE=TABLES_SIZE,
        MSR_BITMAP=MSR_BITMAP,
        EPTP=eptp_of(EPT_ROOT),
        TR_SELECTOR=TSS_SELECTOR,
        GDT_BASE=gva_of(Page.GDT),
        GDT_LIMIT=_GDT_LIMIT,
    )


class Batch(NamedTuple):
    """What Bochs made of a batch of cases."""

    outcomes: list[Outcome]
    reset_pat: int
    """IA32_PAT after its reset."""


def run_in_bochs(cases: list[Case]) -> Batch:
    """Run at most BATCH cases in Bochs. Raises ReferenceError if it is not installed, or fails."""
    disk, results = disk_image.encode_disk(assembled(), cases)
    data = emulator.run(disk, results, _START_TIMEOUT + len(cases) * _CASE_TIMEOUT)
    return Batch(disk_image.decode_results(data, cases), disk_image.decode_reset_pat(data))


class Comparator:
    """Compares outcomes of Bochs with those of our machine."""

    def __init__(self) -> None:
        self._model = Model()
        self.reset_pat: Final = self._model.reset_pat

    def expect(self, case: Case, reference: Outcome) -> tuple[Outcome, list[Quirk]]:
        """(what Bochs should make of the case, the quirks without which it would be a difference)."""
        model = self._model
        ours = model.run(case)
        quirks = applicable(case)
        if not quirks:
            return ours, []

        def outcome(some: frozenset[Quirk]) -> Outcome:
            return with_quirks(model, case, ours, some)

        expected = outcome(frozenset(quirks))
        if expected != reference or ours == reference:
            return expected, []
        return expected, changed_verdict(quirks, outcome, reference)


def describe(outcome: Outcome, other: Outcome) -> str:
    """What differs in the outcome from `other`, in one line; and how it ended."""
    parts = [f"exit={outcome.exit:#x}"]
    for name, value in outcome._asdict().items():
        if name not in ("exit", "state", "memory") and value != getattr(other, name):
            parts.append(f"{name}={value:#x}")
    for name in State._fields:
        value = getattr(outcome.state, name)
        if value != getattr(other.state, name):
            parts.append(f"{name}={value:#x}")
    parts += [f"[{hpa:#x}]={value:#x}" for hpa, value in outcome.memory if (hpa, value) not in other.memory]
    return " ".join(parts)


class RingReference:
    """Debian's Bochs, which runs one instruction or delivers one event of a guest under VMX."""

    name = "ring"
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
        source = mixed_cases(cases, seed)
        while len(differences) < MAX_DIFFERENCES and (some := list(islice(source, BATCH))):
            batch = run_in_bochs(some)
            if batch.reset_pat != comparator.reset_pat and not done:
                model, bochs = f"{comparator.reset_pat:#x}", f"{batch.reset_pat:#x}"
                differences.append(Difference(done, "IA32_PAT after a reset", model, bochs))
            for case, reference in zip(some, batch.outcomes, strict=True):
                expected, needed = comparator.expect(case, reference)
                changed.update(quirk.name for quirk in needed)
                if expected != reference:
                    differences.append(
                        Difference(done, str(case), describe(expected, reference), describe(reference, expected))
                    )
                done += 1
                if done % 500 == 0:
                    progress(done)
                if len(differences) == MAX_DIFFERENCES:
                    break
        seconds = time.monotonic() - start
        counts = verdict_counts(QUIRKS, changed)
        return Report(self.name, version, seed, done, seconds, tuple(differences), counts)
