"""The comparison: random cases at both address widths, one QEMU for each, run in lockstep with our model."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from hvfuzz.machine.memory import PhysicalMemory
from hvfuzz.references.reference import MAX_DIFFERENCES, Difference, Quirk, Report
from hvfuzz.references.vtd import quirks
from hvfuzz.references.vtd.case import Case
from hvfuzz.references.vtd.cases.request_cases import random_request_case, single_fault_case
from hvfuzz.references.vtd.cases.sequence_cases import sequence_case
from hvfuzz.references.vtd.cases.single_faults import single_faults
from hvfuzz.references.vtd.cosimulation import Mismatch
from hvfuzz.references.vtd.lockstep import Lockstep
from hvfuzz.references.vtd.qemu import MEMORY, PACKAGE, version

WIDTHS: Final = (39, 48)
SEQUENCES: Final = 0.15
"""Share of the cases that are sequences."""
SINGLES: Final = 0.85
"""Share of the other cases that are single faults, until all of these were there."""
PROGRESS: Final = 100


class VtdReference:
    """QEMU's q35 with an intel-iommu of 39, then of 48 bits."""

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
        """Compare that many cases, as many at each width; it stops after `max_differences`.

        After a difference both sides start anew, with the next case. Raises ReferenceError if QEMU is not installed,
        or dies.
        """
        started = time.monotonic()
        name = version()
        differences: list[Difference] = []
        met: Counter[str] = Counter()
        done = 0
        for number, width in enumerate(widths):
            todo = cases_of(width, seed, (cases + number) // len(widths))
            while len(differences) < max_differences:
                done, difference = _until_mismatch(width, todo, done, progress, met)
                if difference is None:
                    break
                differences.append(difference)
        seconds = time.monotonic() - started
        return Report(self.name, name, seed, done, seconds, tuple(differences), dict(met))


def cases_of(width: int, seed: int, count: int) -> Iterator[Case]:
    """`count` cases for an IOMMU of that width; the same seed gives the same ones.

    Every single fault is among them, once, if there is room for all.
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
    width: int, cases: Iterator[Case], done: int, progress: Callable[[int], None], met: Counter[str]
) -> tuple[int, Difference | None]:
    """Run cases until one differs, or there are no more: how many are done, and what differs."""
    case: Case | None = None
    try:
        with Lockstep(width, PhysicalMemory(MEMORY)) as lockstep:
            for case in cases:
                done += 1
                lockstep.run(case)
                met.update(lockstep.model.quirks.keys())
                if done % PROGRESS == 0:
                    progress(done)
    except Mismatch as mismatch:
        text = f"{mismatch.what}, {width} bits, {case or 'at the start'}"
        return done, Difference(done, text, mismatch.model, mismatch.reference)
    return done, None
