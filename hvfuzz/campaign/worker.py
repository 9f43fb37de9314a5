"""A worker process: one engine on one target; tells its parent what happens as JSON lines on standard output.

Events: {"event": "progress", runs, ops, seconds, features, corpus, last_new},
{"event": "finding", identity, message, file, text, runs, seconds}, {"event": "error", message}.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

from hvfuzz.bugs import Bug, BugError, find_bug
from hvfuzz.campaign.corpus import seed_files
from hvfuzz.campaign.findings import FindingStore, record_of
from hvfuzz.engines.engine import BudgetSpent, EngineError, Feedback, Job, Progress, Session, load_engine
from hvfuzz.guest.program import Program
from hvfuzz.guest.text import render
from hvfuzz.oracles.finding import Finding
from hvfuzz.targets.emulated import EmulatedTarget
from hvfuzz.targets.harness import find_harness

EXIT_ERROR: Final = 2
PR_SET_PDEATHSIG: Final = 1


class WorkerJob(NamedTuple):
    """What the parent asks of a worker; all plain values, passed as one JSON argument."""

    harness: str
    engine: str
    seed: int
    seconds: float | None
    runs: int | None
    bug: str | None
    feedback: str
    out: str
    seeds: list[str]
    arguments: list[str]


class _Pipe:
    """The sink of a worker: saves each finding, then tells the parent."""

    def __init__(self, store: FindingStore, bug: str | None) -> None:
        self.store: Final = store
        self.bug: Final = bug

    def found(self, finding: Finding, program: Program, progress: Progress) -> None:
        record = record_of(finding, program, self.bug, progress.runs, progress.seconds)
        event: dict[str, Any] = {
            "event": "finding",
            **record._asdict(),
            "text": render(program),
            "file": None,
        }
        try:
            event["file"] = str(self.store.save(record, program))
        except OSError as error:
            # The parent still gets the program's text: nothing is lost with the disk.
            event["error"] = f"cannot write {error.filename}: {error.strerror}"
        tell(event)

    def progress(self, progress: Progress) -> None:
        tell({"event": "progress", **progress._asdict()})


def tell(event: dict[str, Any]) -> None:
    """Send one event; a parent that is gone ends this process."""
    try:
        os.write(1, (json.dumps(event) + "\n").encode())
    except BrokenPipeError:
        os._exit(EXIT_ERROR)


def die_with_parent() -> None:
    """Ask the kernel to end this process with its parent (Linux; elsewhere a broken pipe does it later)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def work(job: WorkerJob) -> None:
    """Do `job`; returns when its budget is spent (the atheris engine ends the process instead)."""
    bug: Bug | None = None if job.bug is None else find_bug(job.bug)
    out = Path(job.out)
    seeds = [path.read_bytes() for path in seed_files(Path(folder) for folder in job.seeds)]
    # The engine's package is loaded first: what it hooks must be there before the target is built.
    engine = load_engine(job.engine)
    with EmulatedTarget(bug) as target:
        task = Job(
            harness=find_harness(job.harness),
            seeds=seeds,
            corpus=out / "corpus" / job.harness,
            seed=job.seed,
            seconds=job.seconds,
            runs=job.runs,
            feedback=Feedback(job.feedback),
            arguments=job.arguments,
        )
        session = Session(target, task, _Pipe(FindingStore(out / "findings"), job.bug))
        with suppress(BudgetSpent):
            engine.fuzz(task, session)
        session.sink.progress(session.progress())


def main(arguments: Sequence[str]) -> NoReturn:
    """Entry point of ``python -m hvfuzz.campaign.worker JSON``."""
    die_with_parent()
    try:
        work(WorkerJob(**json.loads(arguments[0])))
    except (BugError, EngineError) as error:
        tell({"event": "error", "message": str(error)})
        sys.exit(EXIT_ERROR)
    except OSError as error:
        tell({"event": "error", "message": f"cannot write {error.filename}: {error.strerror}"})
        sys.exit(EXIT_ERROR)
    sys.exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
