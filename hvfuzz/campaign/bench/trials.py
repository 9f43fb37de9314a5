"""Benchmark campaigns: the effort an engine needs to find each planted bug, and the check for false alarms.

Both use the worker processes of `hvfuzz fuzz`, each campaign in a temporary folder.
"""

import shutil
import statistics
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from hvfuzz.bugs import Bug
from hvfuzz.campaign.deaths import judge_deaths
from hvfuzz.campaign.workers.pool import POLL_SECONDS, Pool, PoolError
from hvfuzz.campaign.workers.worker import WorkerJob
from hvfuzz.campaign.workers.worker_handle import Discovery


class Trial(NamedTuple):
    """One campaign against one bug, from its start to the first finding that the bug is expected to give."""

    bug: str
    seed: int
    found: str | None
    """The identity of that finding; None if the time ran out first."""
    runs: int
    """Number of programs run by then."""
    seconds: float
    others: Sequence[str]
    """Other identities found by then, which are not among the bug's expected findings."""
    notices: Sequence[str]


class Spread(NamedTuple):
    """Median and range of a figure over several trials."""

    median: float | None
    """Counts a trial that found nothing as infinite; None if that makes the median infinite."""
    low: float
    high: float
    """The range over the successful trials."""


def spread(figures: Iterable[float], trials: int) -> Spread | None:
    """Summarise the `figures` of the successful ones among `trials` trials; None if there are none."""
    found = sorted(figures)
    if not found:
        return None
    median = statistics.median([*found, *[float("inf")] * (trials - len(found))])
    return Spread(None if median == float("inf") else median, found[0], found[-1])


@contextmanager
def _scratch(keep: Callable[[], bool]) -> Iterator[Path]:
    """A temporary folder for one campaign; kept if `keep()` is true, and after a PoolError, whose message names it."""
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
    """`count` trials for each bug, `parallel` at a time.

    `bugs` maps the workers' --bug argument to the bug. `job` configures all but bug, seed and folder; the random seeds
    are `job.seed` and the numbers after it.
    """

    def __init__(self, bugs: Mapping[str, Bug], job: WorkerJob, count: int, parallel: int) -> None:
        self._bugs: Final = bugs
        self._job: Final = job
        self._parallel: Final = parallel
        self.count: Final = count
        self.total: Final = count * len(bugs)
        self.done: Final[list[Trial]] = []
        self.running: Final[list[str]] = []
        """Names of the bugs of the running trials, one entry per trial."""

    def run(self) -> Generator[None, None, None]:
        """Run all trials; yields several times a second. Closing the generator discards unfinished trials.

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
                # The parallel trials share the polling interval, so that each is polled often enough.
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
    """Advance a trial by one step; False once it is over."""
    return next(trial, trial) is None


class CleanResult(NamedTuple):
    """Figures and findings of one harness on the hypervisor without a planted bug."""

    harness: str
    runs: int
    ops: int
    profiles: int
    """Number of weight profiles that have had a turn."""
    seconds: float
    findings: Sequence[Discovery]
    """Each is a bug in the hypervisor, or a false alarm of an oracle."""
    notices: Sequence[str]


class CleanRun:
    """One campaign that ends when its workers together have run `ops` ops, regardless of findings."""

    def __init__(self, job: WorkerJob, ops: int, workers: int) -> None:
        self._job: Final = job
        self._workers: Final = workers
        self.ops: Final = ops
        self.now: CleanResult = CleanResult(job.harness, 0, 0, 0, 0.0, (), ())
        """The figures so far."""

    def run(self) -> Generator[None, None, None]:
        """Run the campaign; yields several times a second. Raises `PoolError`."""
        with _scratch(lambda: bool(self.now.findings)) as folder:
            pool = Pool(self._job._replace(out=str(folder)), self._workers)
            over = False
            try:
                with closing(pool.run()) as run:
                    for _ in run:
                        self._look(pool)
                        if self.now.ops >= self.ops:
                            break
                        yield
                over = True
            except PoolError as error:
                if not pool.deaths and not pool.discoveries:
                    raise
                over = True
                pool.notices.append(str(error))  # what was found counts, although the run is not complete
            finally:
                self._look(pool)
                deadly = judge_deaths(pool.deaths, self._job.bug, folder, "clean", lambda: over)
                found = (*self.now.findings, *deadly.findings.values())
                self.now = self.now._replace(findings=found, notices=[*pool.notices, *deadly.notices])

    def _look(self, pool: Pool) -> None:
        progress = pool.progress()
        found = tuple(pool.discoveries.values())
        self.now = CleanResult(
            self._job.harness, progress.runs, progress.ops, progress.profiles, progress.seconds, found, pool.notices
        )
