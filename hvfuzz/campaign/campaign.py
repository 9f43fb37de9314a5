"""One campaign from start to finish: workers fuzz, findings are confirmed and minimised, a report is written."""

import os
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hvfuzz.bugs import find_bug
from hvfuzz.campaign.confirm import ReportedFinding, confirm_all, unconfirmed
from hvfuzz.campaign.deaths import UNKNOWN, judge_deaths
from hvfuzz.campaign.report import Summary, quantity, write_report
from hvfuzz.campaign.seed_corpus import remove_damaged_units
from hvfuzz.campaign.workers.pool import Pool, PoolError
from hvfuzz.campaign.workers.stop_signal import StopSignal
from hvfuzz.campaign.workers.worker import WorkerJob
from hvfuzz.campaign.workers.worker_handle import Discovery


class Campaign:
    """Call `fuzz`, then `finish`, which reports everything found so far even if `fuzz` failed or was interrupted."""

    def __init__(self, job: WorkerJob, workers: int, stop: StopSignal) -> None:
        self.job: Final = job
        self.workers: Final = workers
        self.stop: Final = stop
        self.out: Final = Path(job.out)
        self.name: Final = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{job.harness}-{job.seed}"
        """The name of its report, if no other campaign has it."""
        self._logs: Final = f"{self.name}-{os.getpid()}"
        self.pool: Final = Pool(job, workers, self._logs)
        self.error: str | None = None
        """Why the campaign ended early; None if it did not."""
        self.internal_error_seen = False
        """Whether `error` is a bug in hvfuzz itself."""
        self.report: Path | None = None

    def fuzz(self) -> Generator[None, None, None]:
        """Fuzz until the budget is spent or a signal arrives; yields several times a second."""
        old = remove_damaged_units(self.out / "corpus" / self.job.harness)
        if old:
            self.pool.notices.append(f"deleted {quantity(old, 'new input')} of an earlier campaign that was not whole")
        try:
            with closing(self.pool.run()) as run:
                for _ in run:
                    yield
                    if self.stop.requested():
                        break
        except PoolError as error:
            self.error = str(error)
        except OSError as error:
            self.error = f"{error.filename or 'worker'}: {error.strerror}"

    def found(self) -> int:
        """Number of findings and of programs that ended a worker, so far."""
        return len(self.pool.discoveries) + len(self.pool.deaths)

    def finish(self, *, minimise: bool) -> Summary:
        """Confirm and minimise the findings (unless a signal arrived), and write the report."""
        pool, job = self.pool, self.job
        notices = list(pool.notices)
        findings = self._findings(notices, minimise=minimise)
        units = self.out / "corpus" / job.harness
        lost = remove_damaged_units(units)
        if lost:
            self._fail(f"{units}: {quantity(lost, 'new input')} could not be written whole; is the disk full?")
        if pool.broken:
            self._note_broken(notices)
        progress = pool.progress()
        summary = Summary(
            harness=job.harness,
            engine=job.engine,
            feedback=job.feedback,
            bug=None if job.bug is None else find_bug(job.bug).name,
            bug_file=job.bug if job.bug is not None and job.bug.endswith(".py") else None,
            seed=job.seed,
            workers=self.workers,
            runs=progress.runs,
            ops=progress.ops,
            seconds=progress.seconds,
            features=progress.features,
            corpus=progress.corpus,
            notices=[
                f"{notice} ({count} times)" if count > 1 else notice for notice, count in Counter(notices).items()
            ],
            findings=findings,
            error=self.error,
        )
        try:
            self.report = write_report(self.out, self.name, summary)
        except OSError as error:
            self._fail(f"cannot write the report: {error.filename or self.out}: {error.strerror}")
        return summary._replace(error=self.error)

    def _findings(self, notices: list[str], *, minimise: bool) -> list[ReportedFinding]:
        """The findings as reported, each saved if possible; what cannot be saved is added to `notices`."""
        pool, job = self.pool, self.job

        def proceed() -> bool:
            return not self.stop.requested()

        deadly = judge_deaths(pool.deaths, job.bug, self.out, self._logs, proceed)
        notices += deadly.notices
        discoveries = [_on_disk(each) for each in pool.discoveries.values()]
        known = {each.identity for each in discoveries}
        discoveries += [each for each in deadly.findings.values() if each.identity not in known]
        # A death that was not replayed has no identity that a replay could confirm.
        replayed = [each for each in discoveries if not each.identity.endswith(UNKNOWN)]
        if minimise and replayed and proceed():
            log = f"{self._logs}-confirm"
            findings = confirm_all(replayed, job.bug, self.out, self.workers, proceed, deadly.findings, log)
        else:
            findings = [unconfirmed(each, job.bug, self.out) for each in replayed]
        findings += [unconfirmed(each, job.bug, self.out) for each in discoveries if each.identity.endswith(UNKNOWN)]
        reasons = {each.identity: each.error for each in discoveries}
        for finding in findings:
            if finding.file is None:
                reason = reasons[finding.identity] or f"cannot write to {self.out}"
                notices.append(f"{reason}; the program for {finding.identity} is in the summary only")
        return findings

    def _note_broken(self, notices: list[str]) -> None:
        """Note the programs in which hvfuzz itself failed: the first in `error`, all in `notices`."""
        broken = list(self.pool.broken.values())
        self.internal_error_seen = True
        for each in broken:
            place = f"the program is {each.file}" if each.file is not None else f"the program is:\n{each.text}"
            notices.append(f"internal error: {each.message}; {place}")
        first = broken[0]
        where = first.file or "in the report"
        number = quantity(len(broken), "internal error")
        self._fail(f"{number}; please report: {first.message}; the program is {where}")

    def _fail(self, error: str) -> None:
        """Note an error beside those before it."""
        self.error = error if self.error is None else f"{self.error}; {error}"


def _on_disk(discovery: Discovery) -> Discovery:
    """The discovery without its file if that has been deleted or emptied since."""
    try:
        gone = discovery.file is not None and not Path(discovery.file).stat().st_size
    except OSError:
        gone = True
    return discovery._replace(file=None) if gone else discovery
