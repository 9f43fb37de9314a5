"""The comparison: random cases at both address widths, one QEMU for each, run in lockstep with our model."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from hvfuzz.machine.memory import PhysicalMemory
from hvfuzz.references.reference import MOST_DIFFERENCES, Difference, Quirk, Report
from hvfuzz.references.vtd import quirks
from hvfuzz.references.vtd.lockstep import Lockstep, Mismatch
from hvfuzz.references.vtd.probes import probe_case
from hvfuzz.references.vtd.qemu import MEMORY, PACKAGE, version
from hvfuzz.references.vtd.sequences import sequence_case
from hvfuzz.references.vtd.steps import Case

WIDTHS: Final = (39, 48)
SEQUENCES: Final = 0.2
"""Share of the cases that are sequences."""
PROGRESS: Final = 100


class VtdReference:
    """QEMU's q35 with an intel-iommu of 39, then of 48 bits."""

    name: Final = "vtd"
    needs: Final = f"apt-get install {PACKAGE}"
    quirks: Final[tuple[Quirk, ...]] = quirks.QUIRKS

    def compare(
        self, cases: int, seed: int, progress: Callable[[int], None], most_differences: int = MOST_DIFFERENCES
    ) -> Report:
        """Compare that many cases, half of them at each width.

        Raises ReferenceError if QEMU is not installed, or dies.
        """
        started = time.monotonic()
        name = version()
        differences: list[Difference] = []
        met: Counter[str] = Counter()
        done = 0
        shares = ((WIDTHS[0], cases - cases // 2), (WIDTHS[1], cases // 2))
        for width, share in shares:
            todo = cases_of(width, seed, share)
            while len(differences) < most_differences:
                with Lockstep(width, PhysicalMemory(MEMORY)) as lockstep:
                    found = _until_mismatch(lockstep, todo, done, progress, met)
                done = found[0]
                if found[1] is None:
                    break
                differences.append(found[1])
        seconds = time.monotonic() - started
        return Report(self.name, name, seed, done, seconds, tuple(differences), dict(met))


def cases_of(width: int, seed: int, count: int) -> Iterator[Case]:
    """`count` cases for an IOMMU of that width; the same seed gives the same ones."""
    rng = random.Random(seed << 8 | width)
    for _ in range(count):
        yield sequence_case(rng, width) if rng.random() < SEQUENCES else probe_case(rng, width)


def _until_mismatch(
    lockstep: Lockstep, cases: Iterator[Case], done: int, progress: Callable[[int], None], met: Counter[str]
) -> tuple[int, Difference | None]:
    """Run cases until one differs, or there are no more: how many are done, and what differs."""
    for case in cases:
        try:
            lockstep.run(case)
        except Mismatch as mismatch:
            width = lockstep.board.width
            text = f"{mismatch.what}, {width} bits, {case}"
            return done + 1, Difference(done, text, mismatch.model, mismatch.reference)
        finally:
            met.update(lockstep.board.quirks.keys())
        done += 1
        if done % PROGRESS == 0:
            progress(done)
    return done, None
