"""One campaign from start to finish: workers fuzz, findings are confirmed and minimised, a report is written."""

from collections.abc import Generator
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from hvfuzz.bugs import find_bug
from hvfuzz.campaign.confirm import ReportedFinding, confirm_all, unconfirmed
from hvfuzz.campaign.report import Summary, write_report
from hvfuzz.campaign.workers.pool import Pool, PoolError, WorkerInternalError
from hvfuzz.campaign.workers.stop_signal import StopSignal
from hvfuzz.campaign.workers.worker import WorkerJob
from hvfuzz.engines.atomic_file import write_atomically


class Campaign:
    """Call `fuzz`, then `finish`, which reports everything found so far even if `fuzz` failed or was interrupted."""

    def __init__(self, job: WorkerJob, workers: int, stop: StopSignal) -> None:
        self.job: Final = job
        self.workers: Final = workers
        self.stop: Final = stop
        self.out: Final = Path(job.out)
        self.pool: Final = Pool(job, workers)
        self.error: str | None = None
        """Why the campaign ended early; None if it did not."""
        self.internal_error_seen = False
        """Whether `error` is a bug in hvfuzz itself."""
        self.report: Path | None = None

    def fuzz(self) -> Generator[None, None, None]:
        """Fuzz until the budget is spent or a signal arrives; yields several times a second."""
        try:
            with closing(self.pool.run()) as run:
                for _ in run:
                    yield
                    if self.stop.requested():
                        break
        except WorkerInternalError as error:
            self.error, self.internal_error_seen = str(error), True
            with suppress(OSError):
                write_atomically(self.out / "broken.hvp", error.program.encode())
                self.error += f"; the program is {self.out / 'broken.hvp'}"
        except PoolError as error:
            self.error = str(error)
        except OSError as error:
            self.error = f"{error.filename or 'worker'}: {error.strerror}"

    def finish(self, *, minimise: bool) -> Summary:
        """Confirm and minimise the findings (unless a signal arrived), and write the report."""
        pool, job = self.pool, self.job
        discoveries = list(pool.discoveries.values())
        if minimise and discoveries and not self.stop.requested():
            findings = confirm_all(discoveries, job.bug, self.out, self.workers, lambda: not self.stop.requested())
        else:
            findings = [unconfirmed(discovery, job.bug, self.out) for discovery in discoveries]
        notices = list(pool.notices)
        for discovery in discoveries:
            if discovery.error is not None and not _saved(findings, discovery.identity):
                notices.append(f"{discovery.error}; the program for {discovery.identity} is in the summary only")
        progress = pool.progress()
        summary = Summary(
            harness=job.harness,
            engine=job.engine,
            feedback=job.feedback,
            bug=None if job.bug is None else find_bug(job.bug).name,
            seed=job.seed,
            workers=self.workers,
            runs=progress.runs,
            ops=progress.ops,
            seconds=progress.seconds,
            features=progress.features,
            corpus=progress.corpus,
            notices=notices,
            findings=findings,
        )
        try:
            self.report = write_report(self.out, summary)
        except OSError as error:
            notices.append(f"cannot write the report: {error.filename or self.out}: {error.strerror}")
        return summary


def _saved(findings: list[ReportedFinding], identity: str) -> bool:
    return any(finding.identity == identity and finding.file is not None for finding in findings)
