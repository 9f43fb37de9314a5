"""Compares the IOMMU model with QEMU: random cases at both address widths, one QEMU process for each width."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from hvfuzz.machine.physical_memory import PhysicalMemory
from hvfuzz.references.reference import MAX_DIFFERENCES, Difference, Quirk, Report, verdict_counts
from hvfuzz.references.vtd import quirks
from hvfuzz.references.vtd.case import Case
from hvfuzz.references.vtd.cases.request_cases import random_request_case, single_fault_case
from hvfuzz.references.vtd.cases.sequence_cases import sequence_case
from hvfuzz.references.vtd.cases.single_faults import single_faults
from hvfuzz.references.vtd.cosimulation import Mismatch
from hvfuzz.references.vtd.lockstep import Lockstep
from hvfuzz.references.vtd.qemu import MEMORY, PACKAGE, version

WIDTHS: Final = (39, 48)
"""Address widths of the IOMMU, in bits."""
SEQUENCES: Final = 0.15
"""Fraction of cases that are sequences."""
SINGLES: Final = 0.85
"""Fraction of the other cases that are single faults, while there are any left."""
PROGRESS: Final = 100
"""Cases between two progress reports."""


class VtdReference:
    """QEMU's q35 machine with an intel-iommu, first of 39 bits, then of 48."""

    name: Final = "vtd"
    installation: Final = f"apt-get install {PACKAGE}"
    quirks: Final[tuple[Quirk, ...]] = quirks.QUIRKS

    def compare(
        self,
        cases: int,
        seed: int,
        progress: Callable[[int], None],
        *,
        widths: Sequence[int] = WIDTHS,
        max_differences: int = MAX_DIFFERENCES,
    ) -> Report:
        """Compare `cases` cases, divided evenly among `widths`; stop after `max_differences`.

        After a difference both sides are restarted, and the comparison goes on with the next case. Raises
        ReferenceError if QEMU is not installed, or fails.
        """
        started = time.monotonic()
        name = version()
        differences: list[Difference] = []
        changed: Counter[str] = Counter()
        done = 0
        for number, width in enumerate(widths):
            todo = cases_of(width, seed, (cases + number) // len(widths))
            while len(differences) < max_differences:
                done, difference = _until_mismatch(width, todo, done, progress, changed)
                if difference is None:
                    break
                differences.append(difference)
        seconds = time.monotonic() - started
        return Report(self.name, name, seed, done, seconds, tuple(differences), verdict_counts(quirks.QUIRKS, changed))


def cases_of(width: int, seed: int, count: int) -> Iterator[Case]:
    """`count` cases for an IOMMU of `width` bits; they depend on the arguments only.

    Each single fault comes at most once, and all of them come if `count` is large enough.
    """
    rng = random.Random(seed << 8 | width)
    left = list(single_faults(width))
    rng.shuffle(left)
    for _ in range(count):
        if rng.random() < SEQUENCES:
            yield sequence_case(rng, width)
        elif left and rng.random() < SINGLES:
            yield single_fault_case(rng, width, left.pop())
        else:
            yield random_request_case(rng, width)


def _until_mismatch(
    width: int, cases: Iterator[Case], done: int, progress: Callable[[int], None], changed: Counter[str]
) -> tuple[int, Difference | None]:
    """Run cases up to the first difference: (number of cases done so far, the difference or None)."""
    case: Case | None = None
    try:
        with Lockstep(width, PhysicalMemory(MEMORY), changed) as lockstep:
            for case in cases:
                done += 1
                lockstep.run(case)
                if done % PROGRESS == 0:
                    progress(done)
    except Mismatch as mismatch:
        text = f"{mismatch.what}, {width} bits, {case or 'during start-up'}"
        return done, Difference(done, text, mismatch.model, mismatch.reference)
    return done, None
