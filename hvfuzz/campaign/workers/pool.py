"""The supervisor of a campaign's workers: starts them, collects their events, replaces those that die, stops all."""

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, Final, NamedTuple

from hvfuzz.campaign.workers.child_process import launch_child
from hvfuzz.campaign.workers.worker import WorkerJob
from hvfuzz.engines.engine import Progress

MAX_EARLY_DEATHS: Final = 3
"""Give up after this many workers in a row died before their first run."""
GRACE_SECONDS: Final = 10.0
"""Kill a worker that runs this much longer than its time budget."""
END_SECONDS: Final = 2.0
"""Kill a worker that takes longer than this to end after SIGTERM."""
POLL_SECONDS: Final = 0.1


class PoolError(Exception):
    """The campaign cannot continue: a worker reported an error, or workers keep dying."""


class WorkerInternalError(PoolError):
    """The campaign cannot continue because hvfuzz itself raised an exception while it ran `program` (text form)."""

    def __init__(self, message: str, program: str) -> None:
        super().__init__(f"internal error; please report it: {message}")
        self.program = program


class Discovery(NamedTuple):
    """A finding as reported by a worker."""

    identity: str
    message: str
    file: str | None
    """Path of the program; None if it could not be saved."""
    text: str
    """The program in text form."""
    runs: int
    """Number of programs that all workers together had run by then."""
    seconds: float
    error: str | None
    """Why the program could not be saved."""


class _Worker:
    """One process, its latest figures, and the incomplete last line of its output (`pending`)."""

    def __init__(self, number: int, runs: int | None, process: subprocess.Popen[bytes], log: Path) -> None:
        self.number: Final = number
        self.runs: Final = runs
        self.process: Final = process
        self.log: Final = log
        self.pending = b""
        self.progress = Progress(0, 0, 0.0, 0, 0, 0.0)

    @property
    def output(self) -> Any:
        assert self.process.stdout is not None
        return self.process.stdout


class Pool:
    """`workers` processes that run the same job with different random seeds."""

    def __init__(self, job: WorkerJob, workers: int) -> None:
        self._job: Final = job._replace(shared=workers > 1)
        self._count: Final = workers
        self._start: Final = time.monotonic()
        self._workers: dict[int, _Worker] = {}
        self._done: list[Progress] = []
        self._selector: Final = selectors.DefaultSelector()
        self._seeds = job.seed
        self._early_deaths = 0
        self._end = 0.0
        self.discoveries: Final[dict[str, Discovery]] = {}
        self.notices: Final[list[str]] = []
        """Warnings for the user, such as a worker that was killed and replaced."""

    def run(self, poll: float = POLL_SECONDS) -> Generator[None, None, None]:
        """Run all workers to their end; yields at least every `poll` seconds so that the caller can draw or stop.

        Raises `PoolError`. No worker outlives this generator, however it ends.
        """
        try:
            for number in range(self._count):
                runs = self._job.runs
                # The runs are divided among the workers.
                share = None if runs is None else runs // self._count + (number < runs % self._count)
                if share != 0:
                    self._launch(number, share)
            while self._workers:
                for key, _ in self._selector.select(poll):
                    if self._read(key.data):
                        self._handle_exit(key.data, self._reap(key.data))
                self._kill_overdue()
                yield
        finally:
            self._shut_down()

    def _launch(self, number: int, runs: int | None) -> None:
        """Start a worker for `runs` runs with a fresh seed."""
        job = self._job._replace(seed=self._seeds, runs=runs)
        self._seeds += 1
        elapsed = time.monotonic() - self._start
        if job.seconds is not None and elapsed > 1:
            job = job._replace(seconds=max(0.5, job.seconds - elapsed))
        log = Path(job.out) / "logs" / f"worker-{number}.log"
        worker = _Worker(number, runs, launch_child("hvfuzz.campaign.workers.worker", job._asdict(), log), log)
        os.set_blocking(worker.output.fileno(), False)
        self._workers[number] = worker
        self._selector.register(worker.output, selectors.EVENT_READ, worker)

    def _read(self, worker: _Worker) -> bool:
        """Handle the events that the worker has sent; True at the end of its output."""
        data: bytes | None = worker.output.read()
        if data:
            *lines, worker.pending = (worker.pending + data).split(b"\n")
            for line in lines:
                self._handle_event(worker, line)
        return data == b""  # None means that the non-blocking pipe is empty but open

    def _handle_exit(self, worker: _Worker, status: int) -> None:
        """Start a replacement for a worker that ended with `status` before it was done."""
        if status == 0:
            return
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        self._early_deaths = 0 if worker.progress.runs else self._early_deaths + 1
        if self._early_deaths >= MAX_EARLY_DEATHS:
            raise PoolError(f"workers keep dying: worker {worker.number} {how} (see {worker.log})")
        left = None if worker.runs is None else worker.runs - worker.progress.runs
        if left is None or left > 0:
            self.notices.append(f"worker {worker.number} {how} and was replaced")
            self._launch(worker.number, left)

    def _handle_event(self, worker: _Worker, line: bytes) -> None:
        event: dict[str, Any] = json.loads(line)
        kind = event.pop("event")
        if kind == "progress":
            worker.progress = Progress(**event)
        elif kind == "finding":
            known = self.discoveries.get(event["identity"])
            if known is None:
                others = self.progress().runs - worker.progress.runs
                seconds = round(time.monotonic() - self._start, 3)
                discovery = Discovery(**{**event, "runs": others + event["runs"], "seconds": seconds})
                self.discoveries[discovery.identity] = discovery
            elif known.file is None:
                kept = {name: event[name] for name in ("message", "file", "text", "error")}
                self.discoveries[known.identity] = known._replace(**kept)
        elif kind == "error":
            raise PoolError(event["message"])
        elif kind == "broke":
            raise WorkerInternalError(f"{event['message']} (details in {worker.log})", event["text"])

    def _kill_overdue(self) -> None:
        if self._job.seconds is None or time.monotonic() - self._start < self._job.seconds + GRACE_SECONDS:
            return
        for worker in list(self._workers.values()):
            # It hangs between two runs (the watchdog ends a run that hangs). Its findings are saved.
            self.notices.append(f"worker {worker.number} did not end in time and was killed")
            worker.process.kill()
            self._reap(worker)

    def _reap(self, worker: _Worker) -> int:
        """Wait for a worker that has ended or is ending, and return its exit status."""
        self._selector.unregister(worker.output)
        worker.output.close()
        status = worker.process.wait()
        del self._workers[worker.number]
        self._done.append(worker.progress)
        return status

    def _shut_down(self) -> None:
        """Stop the remaining workers: SIGTERM first, to collect their last events, then SIGKILL."""
        for worker in self._workers.values():
            worker.process.terminate()
        patience = time.monotonic() + END_SECONDS
        while self._workers and time.monotonic() < patience:
            for key, _ in self._selector.select(POLL_SECONDS):
                try:
                    ended = self._read(key.data)
                except PoolError as error:
                    self.notices.append(str(error))
                    continue
                if ended:
                    self._reap(key.data)
        for worker in list(self._workers.values()):
            worker.process.kill()
            self._reap(worker)
        self._selector.close()
        self._end = time.monotonic()

    def progress(self) -> Progress:
        """Figures of all workers: their sums, but the maximum of features, corpus, last_new and profiles."""
        parts = [*self._done, *(worker.progress for worker in self._workers.values())]
        return Progress(
            sum(part.runs for part in parts),
            sum(part.ops for part in parts),
            round((self._end or time.monotonic()) - self._start, 3),
            max((part.features for part in parts), default=0),
            max((part.corpus for part in parts), default=0),
            max((part.last_new for part in parts), default=0.0),
            max((part.profiles for part in parts), default=1),
        )

    def worker_progress(self) -> Progress:
        """Figures of the worker with the most runs, timed by itself: excludes the start-up of its process."""
        return max([*self._done, *(worker.progress for worker in self._workers.values())], key=lambda part: part.runs)
