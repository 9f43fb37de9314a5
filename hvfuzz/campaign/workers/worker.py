"""A worker process: one engine on one target; tells its parent what happens.

Events: {"event": "progress", runs, ops, seconds, features, corpus, last_new},
{"event": "finding", identity, message, file, text, runs, seconds, error}, {"event": "error", message} for what is
wrong with the job or the machine, {"event": "broke", message, text} for a mistake of hvfuzz itself.
"""

import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

from hvfuzz.bugs import BugError, find_bug
from hvfuzz.campaign.findings import FindingStore, record_of
from hvfuzz.campaign.program_files import ProgramFileError
from hvfuzz.campaign.seed_corpus import seed_bytes
from hvfuzz.campaign.workers.child_process import Channel, exit_with_error, start_child
from hvfuzz.engines.engine import BudgetSpent, EngineError, Feedback, Job, Progress, Session, load_engine
from hvfuzz.guest.format.text import render
from hvfuzz.guest.program.program import Program
from hvfuzz.oracles.framework.finding import Finding
from hvfuzz.targets.emulated.emulated import EmulatedTarget
from hvfuzz.targets.emulated.watchdog import Watchdog
from hvfuzz.targets.harness import find_harness


class WorkerJob(NamedTuple):
    """What the parent asks of a worker; all plain values, passed as one JSON argument."""

    harness: str
    engine: str
    seed: int
    seconds: float | None
    runs: int | None
    bug: str | None
    """Name of a planted bug, or absolute path of a Python file that defines one."""
    feedback: str
    out: str
    seeds: list[str]
    """Folders and files of seeds."""
    shared: bool = False
    """Whether there are other workers, with the same output folder."""
    arguments: tuple[str, ...] = ()


def bug_argument(bug: str) -> str:
    """`bug`, a name or a file as its user gave it, as a worker finds it, wherever that runs."""
    return str(Path(bug).resolve()) if bug.endswith(".py") else bug


class _ParentSink:
    """The sink of a worker: saves each finding, then tells the parent."""

    def __init__(self, channel: Channel, store: FindingStore, bug: str | None) -> None:
        self.channel: Final = channel
        self.store: Final = store
        self.bug: Final = bug

    def found(self, finding: Finding, program: Program, progress: Progress) -> None:
        record = record_of(finding, program, self.bug, progress.runs, progress.seconds)
        event: dict[str, Any] = {
            "event": "finding",
            "identity": record.identity,
            "message": record.message,
            "runs": record.runs,
            "text": render(program),
            "file": None,
            "error": None,
        }
        # Told before it is saved, and again after: whatever ends this process in between, one of the two knows.
        self.channel.send(event)
        try:
            event["file"] = str(self.store.save(record, program))
        except OSError as error:
            # The parent still gets the program's text: nothing is lost with the disk.
            event["error"] = f"cannot write {error.filename or self.store.root}: {error.strerror}"
        self.channel.send(event)

    def broke(self, error: Exception, program: Program) -> None:
        traceback.print_exception(error)
        message = f"{type(error).__name__}: {error}"
        self.channel.send({"event": "broke", "message": message, "text": render(program)})

    def progress(self, progress: Progress) -> None:
        self.channel.send({"event": "progress", **progress._asdict()})

    def ended(self) -> int:
        return 0


def run_job(job: WorkerJob, channel: Channel) -> None:
    """Do `job`; returns when its budget is spent (the atheris engine ends the process instead)."""
    bug = None if job.bug is None else find_bug(job.bug)
    out = Path(job.out)
    # The engine's package is loaded first: what it hooks must be there before the target is built.
    engine = load_engine(job.engine)
    with Watchdog() as watchdog, EmulatedTarget(bug, watchdog=watchdog) as target:
        seeds = seed_bytes((Path(folder) for folder in job.seeds), target.catalogue)
        task = Job(
            harness=find_harness(job.harness),
            seeds=seeds,
            corpus=out / "corpus" / job.harness,
            scratch=out / "engine",
            shared=job.shared,
            seed=job.seed,
            seconds=job.seconds,
            runs=job.runs,
            feedback=Feedback(job.feedback),
            arguments=job.arguments,
        )
        session = Session(target, task, _ParentSink(channel, FindingStore(out / "findings"), job.bug))
        signal.signal(signal.SIGTERM, lambda number, frame: session.stop())
        with suppress(BudgetSpent):
            engine.fuzz(task, session)
        session.sink.progress(session.progress())


def main(arguments: list[str]) -> NoReturn:
    """Entry point of ``python -m hvfuzz.campaign.workers.worker JOB PARENT``."""
    fields, channel = start_child(arguments)
    try:
        run_job(WorkerJob(**fields), channel)
    except (BugError, EngineError, ProgramFileError, OSError) as error:
        exit_with_error(channel, error)
    sys.exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
