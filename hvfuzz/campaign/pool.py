"""The worker processes of a campaign: started, listened to, replaced when killed, and ended together."""

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from hvfuzz.campaign.worker import WorkerJob
from hvfuzz.engines.engine import Progress

MAX_RESTARTS: Final = 8
"""Workers replaced in one campaign before it gives up: something ends them all."""
GRACE_SECONDS: Final = 10.0
"""How long beyond its time a worker may take to end before it is killed."""


class PoolError(Exception):
    """The campaign cannot go on: what a worker said, or that workers keep dying."""


class Discovery(NamedTuple):
    """A finding as a worker told it; `file` is None if it could not be saved, and then `text` is all there is."""

    identity: str
    message: str
    file: str | None
    text: str
    runs: int
    seconds: float
    error: str | None


class _Worker:
    """One process, with the part of its output that is not a whole line yet."""

    def __init__(self, number: int, process: subprocess.Popen[bytes]) -> None:
        self.number = number
        self.process = process
        self.pending = b""
        self.progress = Progress(0, 0, 0.0, 0, 0, 0.0)

    @property
    def output(self) -> Any:
        assert self.process.stdout is not None
        return self.process.stdout


class Pool:
    """`workers` processes that do the same job with different seeds."""

    def __init__(self, job: WorkerJob, workers: int) -> None:
        self._job: Final = job
        self._count: Final = workers
        self._start: Final = time.monotonic()
        self._workers: dict[int, _Worker] = {}
        self._done: list[Progress] = []
        self._selector: Final = selectors.DefaultSelector()
        self.discoveries: dict[str, Discovery] = {}
        self.notices: list[str] = []
        """What a person should know: a worker that was killed and replaced."""
        self._restarts = 0

    def _launch(self, number: int, seed: int) -> None:
        job = self._job._replace(seed=seed)
        elapsed = time.monotonic() - self._start
        if job.seconds is not None and elapsed > 1:
            job = job._replace(seconds=max(0.5, job.seconds - elapsed))
        logs = Path(job.out) / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        with (logs / f"worker-{number}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "hvfuzz.campaign.worker", json.dumps(job._asdict())],
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.DEVNULL,
                # A session of its own: Ctrl-C reaches the parent alone, which then ends the workers in order.
                start_new_session=True,
                env={**os.environ, "PYTHONHASHSEED": "0"},
            )
        worker = _Worker(number, process)
        os.set_blocking(worker.output.fileno(), False)
        self._workers[number] = worker
        self._selector.register(worker.output, selectors.EVENT_READ, worker)

    def run(self) -> Iterator[None]:
        """Run to the end; yields a few times a second so that the caller can show how far it is.

        Raises `PoolError`. Whatever happens, no worker outlives this generator.
        """
        try:
            for number in range(self._count):
                self._launch(number, self._job.seed + number)
            while self._workers:
                for key, _ in self._selector.select(0.2):
                    self._listen(key.data)
                self._kill_overdue()
                yield
        finally:
            self._end_all()

    def _listen(self, worker: _Worker) -> None:
        data: bytes | None = worker.output.read()
        if data is None:  # a non-blocking pipe that has nothing after all
            return
        if data:
            *lines, worker.pending = (worker.pending + data).split(b"\n")
            for line in lines:
                self._hear(worker, line)
            return
        self._selector.unregister(worker.output)
        worker.output.close()
        status = worker.process.wait()
        del self._workers[worker.number]
        self._done.append(worker.progress)
        if status == 0:
            return
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        log = Path(self._job.out) / "logs" / f"worker-{worker.number}.log"
        self._restarts += 1
        if self._restarts > MAX_RESTARTS:
            raise PoolError(f"workers keep ending: worker {worker.number} {how} (see {log})")
        self.notices.append(f"worker {worker.number} {how}; another took its place")
        self._launch(worker.number, self._job.seed + self._count + self._restarts)

    def _hear(self, worker: _Worker, line: bytes) -> None:
        try:
            event: dict[str, Any] = json.loads(line)
            kind = event.pop("event")
        except (ValueError, KeyError, AttributeError):
            return  # not ours: something else printed to the worker's output
        if kind == "progress":
            worker.progress = Progress(**event)
        elif kind == "finding":
            known = self.discoveries.get(event["identity"])
            if known is None or (known.file is None and event["file"] is not None):
                self.discoveries[event["identity"]] = Discovery(
                    event["identity"],
                    event["message"],
                    event["file"],
                    event["text"],
                    event["runs"],
                    round(time.monotonic() - self._start, 3),
                    event.get("error"),
                )
        elif kind == "error":
            raise PoolError(event["message"])

    def _kill_overdue(self) -> None:
        if self._job.seconds is None or time.monotonic() - self._start < self._job.seconds + GRACE_SECONDS:
            return
        for worker in list(self._workers.values()):
            # It hangs: the run it is in does not end. Its findings are saved; its place is not taken again.
            self.notices.append(f"worker {worker.number} did not end in time and was stopped")
            self._stop(worker)

    def _stop(self, worker: _Worker) -> None:
        self._selector.unregister(worker.output)
        worker.process.kill()
        worker.process.wait()
        worker.output.close()
        self._done.append(worker.progress)
        del self._workers[worker.number]

    def _end_all(self) -> None:
        for worker in self._workers.values():
            worker.process.terminate()
        for worker in list(self._workers.values()):
            try:
                worker.process.wait(2)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            worker.output.close()
            self._done.append(worker.progress)
        self._workers.clear()
        self._selector.close()

    def progress(self) -> Progress:
        """The figures of all workers together; features and corpus are those of the worker with most."""
        parts = [*self._done, *(worker.progress for worker in self._workers.values())]
        return Progress(
            sum(part.runs for part in parts),
            sum(part.ops for part in parts),
            round(time.monotonic() - self._start, 3),
            max((part.features for part in parts), default=0),
            max((part.corpus for part in parts), default=0),
            max((part.last_new for part in parts), default=0.0),
        )

    def worker_progress(self) -> Progress:
        """The figures of the worker that did most, in its own time: without its start, which is no part of its rate."""
        return max([*self._done, *(worker.progress for worker in self._workers.values())], key=lambda part: part.runs)
