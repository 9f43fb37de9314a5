"""Measured campaigns: how soon an engine finds each planted bug, and that it finds nothing where nothing is.

Both run the worker processes of `hvfuzz fuzz`, in folders of their own.
"""

import shutil
import statistics
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from hvfuzz.bugs import Bug
from hvfuzz.campaign.workers.pool import POLL_SECONDS, Discovery, Pool, PoolError
from hvfuzz.campaign.workers.worker import WorkerJob


class Trial(NamedTuple):
    """One campaign against one bug, from its start to the first finding that is the bug's own."""

    bug: str
    seed: int
    found: str | None
    """The identity of that finding; None if the time was over before."""
    runs: int
    """Programs run until then."""
    seconds: float
    others: Sequence[str]
    """Identities found until then that the bug does not promise."""
    notices: Sequence[str]


class Spread(NamedTuple):
    """A figure over several trials. The median counts a trial that found nothing as longer than any that did."""

    median: float | None
    """None if half of the trials or more found nothing."""
    low: float
    high: float
    """Of the trials that found it."""


def spread(figures: Iterable[float], trials: int) -> Spread | None:
    """The spread of the `figures` of those of `trials` trials that found the bug; None if none did."""
    found = sorted(figures)
    if not found:
        return None
    median = statistics.median([*found, *[float("inf")] * (trials - len(found))])
    return Spread(None if median == float("inf") else median, found[0], found[-1])


@contextmanager
def _scratch(keep: Callable[[], bool]) -> Iterator[Path]:
    """A folder for one campaign. It stays if `keep` wants it, and after an error, whose message points there."""
    folder = Path(tempfile.mkdtemp(prefix="hvfuzz-bench-"))
    failed = False
    try:
        yield folder
    except PoolError:
        failed = True
        raise
    finally:
        if not failed and not keep():
            shutil.rmtree(folder, ignore_errors=True)


class Trials:
    """`count` trials for each of `bugs` (by the argument that a worker finds it with), `abreast` at a time.

    `job` says all but bug, seed and folder; the seeds are `job.seed` and those after it.
    """

    def __init__(self, bugs: Mapping[str, Bug], job: WorkerJob, count: int, parallel: int) -> None:
        self._bugs: Final = bugs
        self._job: Final = job
        self._parallel: Final = parallel
        self.count: Final = count
        self.total: Final = count * len(bugs)
        self.done: Final[list[Trial]] = []
        self.running: Final[list[str]] = []
        """The names of the bugs whose trials run now, one for each."""

    def run(self) -> Generator[None, None, None]:
        """Run them all; yields several times a second. A trial that is not over when this is closed does not count.

        Raises `PoolError`.
        """
        waiting = (self._trial(argument, seed) for argument in self._bugs for seed in range(self.count))
        begun: list[Generator[None, None, None]] = []
        try:
            while True:
                while len(begun) < self._parallel and (trial := next(waiting, None)) is not None:
                    begun.append(trial)
                if not begun:
                    return
                begun = [trial for trial in begun if _advance(trial)]
                yield
        finally:
            for trial in begun:
                trial.close()

    def _trial(self, argument: str, number: int) -> Generator[None, None, None]:
        bug = self._bugs[argument]
        seed = self._job.seed + number
        with _scratch(lambda: False) as folder:
            pool = Pool(self._job._replace(bug=argument, seed=seed, out=str(folder)), 1)
            own: Discovery | None = None
            self.running.append(bug.name)
            try:
                # Each waits its part of the time, so that none is heard late because of the others.
                with closing(pool.run(POLL_SECONDS / self._parallel)) as run:
                    for _ in run:
                        own = next((each for each in pool.discoveries.values() if each.identity in bug.findings), None)
                        if own is not None:
                            break
                        yield
            finally:
                self.running.remove(bug.name)
        end = pool.progress() if own is None else own
        others = [
            each.identity
            for each in pool.discoveries.values()
            if each.identity not in bug.findings and each.runs <= end.runs
        ]
        found = None if own is None else own.identity
        self.done.append(Trial(bug.name, seed, found, end.runs, round(end.seconds, 3), others, pool.notices))


def _advance(trial: Generator[None, None, None]) -> bool:
    """Do a part of a trial; False once it is over."""
    return next(trial, trial) is None


class CleanResult(NamedTuple):
    """What a harness did on the hypervisor without a bug."""

    harness: str
    runs: int
    ops: int
    seconds: float
    findings: Sequence[Discovery]
    """Each is a mistake: of the hypervisor, or of an oracle."""
    notices: Sequence[str]


class CleanRun:
    """One campaign that ends when its workers together have run `ops` ops, whatever they find."""

    def __init__(self, job: WorkerJob, ops: int, workers: int) -> None:
        self._job: Final = job
        self._workers: Final = workers
        self.ops: Final = ops
        self.now: CleanResult = CleanResult(job.harness, 0, 0, 0.0, (), ())
        """The figures so far."""

    def run(self) -> Generator[None, None, None]:
        """Run to the end; yields several times a second. Raises `PoolError`."""
        with _scratch(lambda: bool(self.now.findings)) as folder:
            pool = Pool(self._job._replace(out=str(folder)), self._workers)
            try:
                with closing(pool.run()) as run:
                    for _ in run:
                        self._look(pool)
                        if self.now.ops >= self.ops:
                            break
                        yield
            finally:
                self._look(pool)

    def _look(self, pool: Pool) -> None:
        progress = pool.progress()
        found = tuple(pool.discoveries.values())
        self.now = CleanResult(self._job.harness, progress.runs, progress.ops, progress.seconds, found, pool.notices)
