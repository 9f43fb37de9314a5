"""The worker processes of a campaign: started, listened to, replaced when killed, and ended together."""

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
"""Workers in a row that may end before they have run anything; then something is wrong with them all."""
GRACE_SECONDS: Final = 10.0
"""How long beyond its time a worker may take to end before it is killed."""
END_SECONDS: Final = 2.0
"""How long a worker that was told to stop may take."""
POLL_SECONDS: Final = 0.1


class PoolError(Exception):
    """The campaign cannot go on: what a worker said, or that workers keep dying."""


class WorkerInternalError(PoolError):
    """The campaign cannot go on, because hvfuzz itself failed over a program (whose text is `program`)."""

    def __init__(self, message: str, program: str) -> None:
        super().__init__(f"internal error, a mistake of ours and not of yours: {message}")
        self.program = program


class Discovery(NamedTuple):
    """A finding as a worker told it; `file` is None if it could not be saved (`error` says why)."""

    identity: str
    message: str
    file: str | None
    text: str
    """The program that shows it."""
    runs: int
    """Programs run until then by all workers together."""
    seconds: float
    error: str | None


class _Worker:
    """One process, with the part of its output that is not a whole line yet."""

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
    """`workers` processes that do the same job with different seeds."""

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
        """What a person should know: a worker that was killed and replaced."""

    def run(self, poll: float = POLL_SECONDS) -> Generator[None, None, None]:
        """Run to the end; yields every `poll` seconds or oftener, so that the caller can show how far it is, or stop.

        Raises `PoolError`. Whatever happens, no worker outlives this generator.
        """
        try:
            for number in range(self._count):
                runs = self._job.runs
                # All workers together make as many runs as asked for.
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
        """Start a worker that makes `runs` runs, with a seed that no other has had."""
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
        """Take in what the worker has said; whether that was all it will ever say."""
        data: bytes | None = worker.output.read()
        if data:
            *lines, worker.pending = (worker.pending + data).split(b"\n")
            for line in lines:
                self._handle_event(worker, line)
        return data == b""  # None: a non-blocking pipe that has nothing after all

    def _handle_exit(self, worker: _Worker, status: int) -> None:
        """The worker has ended with `status`: if it was not done, another takes its place."""
        if status == 0:
            return
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        self._early_deaths = 0 if worker.progress.runs else self._early_deaths + 1
        if self._early_deaths >= MAX_EARLY_DEATHS:
            raise PoolError(f"workers keep ending: worker {worker.number} {how} (see {worker.log})")
        left = None if worker.runs is None else worker.runs - worker.progress.runs
        if left is None or left > 0:
            self.notices.append(f"worker {worker.number} {how}; another took its place")
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
            # It hangs somewhere between two runs. Its findings are saved; its place is not taken again.
            self.notices.append(f"worker {worker.number} did not end in time and was stopped")
            worker.process.kill()
            self._reap(worker)

    def _reap(self, worker: _Worker) -> int:
        """Take leave of a worker that has ended, or is about to; its exit status."""
        self._selector.unregister(worker.output)
        worker.output.close()
        status = worker.process.wait()
        del self._workers[worker.number]
        self._done.append(worker.progress)
        return status

    def _shut_down(self) -> None:
        """End the workers that are left: asked first, so that their last figures and findings are heard."""
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
        """The figures of all workers together; features and corpus are those of the worker with most."""
        parts = [*self._done, *(worker.progress for worker in self._workers.values())]
        return Progress(
            sum(part.runs for part in parts),
            sum(part.ops for part in parts),
            round((self._end or time.monotonic()) - self._start, 3),
            max((part.features for part in parts), default=0),
            max((part.corpus for part in parts), default=0),
            max((part.last_new for part in parts), default=0.0),
        )

    def worker_progress(self) -> Progress:
        """The figures of the worker that did most, in its own time: without its start, which is no part of its rate."""
        return max([*self._done, *(worker.progress for worker in self._workers.values())], key=lambda part: part.runs)
