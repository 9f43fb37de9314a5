"""A worker process: runs one engine on one target, and reports events to its parent.

Events: {"event": "progress", runs, ops, seconds, features, corpus, last_new},
{"event": "finding", identity, message, file, text, runs, seconds, error}, {"event": "error", message} if the job
or the machine is at fault, {"event": "broke", identity, message, text} for an internal error of hvfuzz, and last
{"event": "done"} from a worker that ends in order.
"""

import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

from hvfuzz.bugs import BugError, find_bug
from hvfuzz.campaign.findings import FindingStore, record_of
from hvfuzz.campaign.program_files import ProgramFileError
from hvfuzz.campaign.seed_corpus import seed_bytes
from hvfuzz.campaign.workers.child_process import Channel, exit_with_error, message_of, start_child
from hvfuzz.engines.all_engines import load_engine
from hvfuzz.engines.current_program import CurrentProgram
from hvfuzz.engines.engine import (
    PROGRESS_SECONDS,
    BudgetSpent,
    EngineError,
    Feedback,
    Job,
    Progress,
    Session,
    error_key,
)
from hvfuzz.guest.format.text import render
from hvfuzz.guest.program.program import Program
from hvfuzz.oracles.framework.fault_origin import fault_line
from hvfuzz.oracles.framework.finding import Finding
from hvfuzz.targets.harness import find_harness
from hvfuzz.targets.pairs.sampled_target import target_of


class WorkerJob(NamedTuple):
    """The configuration of a worker: plain values, passed as one JSON argument."""

    harness: str
    engine: str
    seed: int
    seconds: float | None
    runs: int | None
    bug: str | None
    """Name of the planted bug, or absolute path of the Python file that defines it."""
    feedback: str
    out: str
    seeds: list[str]
    """Folders and files of seeds."""
    shared: bool = False
    """Whether other workers use the same output folder."""
    arguments: tuple[str, ...] = ()
    """Extra arguments for the engine (libFuzzer flags)."""
    rotate: bool = False
    """Whether to rotate through weight profiles."""
    avoid: tuple[str, ...] = ()
    """Programs that are not run; see `Job.avoid`."""
    current: int | None = None
    """File descriptor of the worker's `CurrentProgram`."""


def bug_argument(bug: str) -> str:
    """Convert the --bug argument for a worker: a name stays, a path becomes absolute."""
    return os.path.realpath(bug) if bug.endswith(".py") else bug


class _ParentSink:
    """Sink that saves each finding and sends it to the parent."""

    def __init__(self, channel: Channel, store: FindingStore, bug: str | None, found_by: str) -> None:
        self.channel: Final = channel
        self.store: Final = store
        self.bug: Final = bug
        self.found_by: Final = found_by

    def found(self, finding: Finding, program: Program, progress: Progress) -> None:
        record = record_of(finding, program, self.bug, progress.runs, progress.seconds, self.found_by)
        event: dict[str, Any] = {
            "event": "finding",
            "identity": record.identity,
            "message": record.message,
            "runs": record.runs,
            "seconds": record.seconds,
            "text": render(program),
            "file": None,
            "error": None,
        }
        # Sent before and after saving: if this process dies in between, the parent still knows the finding.
        self.channel.send(event)
        try:
            event["file"] = str(self.store.save(record, program))
        except OSError as error:
            # The event has the program's text, so a full disk does not lose the finding.
            event["error"] = f"cannot write {error.filename or self.store.root}: {error.strerror}"
        self.channel.send(event)

    def broke(self, error: Exception, program: Program) -> None:
        traceback.print_exception(error)
        if isinstance(error, OSError | MemoryError):  # this machine has too little of something: no fault of hvfuzz
            self.channel.send({"event": "error", "message": message_of(error)})
            return
        event = {"event": "broke", "identity": error_key(error), "message": fault_line(error), "text": render(program)}
        self.channel.send(event)

    def progress(self, progress: Progress) -> None:
        self.channel.send({"event": "progress", **progress._asdict()})

    def ended(self) -> int:
        self.channel.send({"event": "done"})
        return 0


class _Loading:
    """Tells the parent from time to time that seeds are being read."""

    def __init__(self, channel: Channel) -> None:
        self._channel: Final = channel
        self._due = 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if now >= self._due:
            self._due = now + PROGRESS_SECONDS
            self._channel.send({"event": "progress", **Progress(0, 0, 0.0, 0, 0, 0.0)._asdict()})


def run_job(job: WorkerJob, channel: Channel) -> None:
    """Fuzz until the budget of `job` is spent (the atheris engine exits the process instead of returning)."""
    bug = None if job.bug is None else find_bug(job.bug)
    out = Path(job.out)
    # Load the engine first: it installs its instrumentation before the target is built.
    engine = load_engine(job.engine)
    harness = find_harness(job.harness)
    with target_of(harness, bug) as target:
        seeds = seed_bytes(map(Path, job.seeds), target.catalogue, [], each=_Loading(channel))
        task = Job(
            harness=harness,
            seeds=seeds,
            corpus=out / "corpus" / job.harness,
            scratch=out / "engine",
            shared=job.shared,
            seed=job.seed,
            seconds=job.seconds,
            runs=job.runs,
            feedback=Feedback(job.feedback),
            arguments=job.arguments,
            rotate=job.rotate,
            avoid=frozenset(job.avoid),
        )
        current = None if job.current is None else CurrentProgram(job.current)
        found_by = f"engine {job.engine}, seed {job.seed}"
        sink = _ParentSink(channel, FindingStore(out / "findings"), job.bug, found_by)
        session = Session(target, task, sink, current)
        signal.signal(signal.SIGTERM, lambda number, frame: session.stop())
        with suppress(BudgetSpent):
            engine.fuzz(task, session)
        session.sink.progress(session.progress())
        session.sink.ended()


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
