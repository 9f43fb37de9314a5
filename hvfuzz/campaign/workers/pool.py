"""The supervisor of a campaign's workers: starts them, collects their events, replaces those that die, stops all."""

import json
import os
import selectors
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from hvfuzz.campaign.workers.child_process import launch_child, signal_name
from hvfuzz.campaign.workers.stall import Stall
from hvfuzz.campaign.workers.worker import WorkerJob
from hvfuzz.campaign.workers.worker_handle import (
    BrokenProgram,
    Death,
    Discovery,
    WorkerHandle,
    broken_program,
    death_of,
)
from hvfuzz.engines.current_program import CurrentProgram
from hvfuzz.engines.engine import MAX_BROKEN, Progress, program_key

MAX_EARLY_DEATHS: Final = 3
"""Give up after this many workers in a row died before their first run."""
GRACE_SECONDS: Final = 10.0
"""Kill a worker that runs this much longer than its time budget."""
MAX_PROGRAM_DEATHS: Final = 10
"""Give up after this many workers in a row died in a program before they had run `FEW_RUNS`."""
FEW_RUNS: Final = 50
MAX_AVOIDED: Final = 200
"""Number of programs that ended a worker and are not run again."""
LOOK_SECONDS: Final = 0.5
"""Least time between two looks for workers that make no progress."""
END_SECONDS: Final = 2.0
"""Kill a worker that takes longer than this to end after SIGTERM."""
POLL_SECONDS: Final = 0.1


class PoolError(Exception):
    """The campaign cannot continue: a worker reported an error, or workers keep dying."""


class Pool:
    """`workers` processes that run the same job with different random seeds.

    The time of the job begins with the first program that any of them runs.
    """

    def __init__(self, job: WorkerJob, workers: int, name: str = "") -> None:
        """`name` begins the names of the logs, so that campaigns that share a folder do not share logs."""
        self._job: Final = job._replace(shared=workers > 1)
        self._count: Final = workers
        self._log_prefix: Final = f"{name}-" if name else ""
        self._start: float | None = None
        self._end: float | None = None
        self._workers: dict[int, WorkerHandle] = {}
        self._done: list[Progress] = []
        self._selector: Final = selectors.DefaultSelector()
        self._seeds = job.seed
        self._early_deaths = 0
        self._looked = 0.0
        self._avoid: tuple[str, ...] = ()
        self.discoveries: Final[dict[str, Discovery]] = {}
        self.deaths: Final[list[Death]] = []
        self.broken: Final[dict[str, BrokenProgram]] = {}
        """By identity: programs in which hvfuzz itself failed."""
        self.notices: Final[list[str]] = []
        """Warnings for the user, such as a worker that was killed and replaced."""

    def run(self, poll: float = POLL_SECONDS) -> Generator[None, None, None]:
        """Run all workers to their end; yields at least every `poll` seconds so that the caller can draw or stop.

        Raises `PoolError`, also if no program ran. No worker outlives this generator, however it ends.
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
                self._end_overdue()
                self._end_stalled()
                yield
            if not (self.progress().runs or self.discoveries or self.deaths or self.broken):
                raise PoolError(
                    f"no program ran: {self.notices[-1] if self.notices else 'the workers had none to run'}"
                )
        finally:
            self._shut_down()

    @property
    def started(self) -> bool:
        """Whether a worker has run a program."""
        return self._start is not None

    def _launch(self, number: int, runs: int | None) -> None:
        """Start a worker for `runs` runs with a fresh seed."""
        current = None
        with suppress(OSError):  # without the record, only the program of a death would be unknown
            current = CurrentProgram.create()
        job = self._job._replace(
            seed=self._seeds, runs=runs, avoid=self._avoid, current=None if current is None else current.handle
        )
        self._seeds += 1
        elapsed = self._seconds()
        if job.seconds is not None and elapsed > 1:
            job = job._replace(seconds=max(0.5, job.seconds - elapsed))
        log = Path(job.out) / "logs" / f"{self._log_prefix}worker-{number}.log"
        handles = () if current is None else (current.handle,)
        process = launch_child("hvfuzz.campaign.workers.worker", job._asdict(), log, handles)
        worker = WorkerHandle(number, runs, process, log, current)
        os.set_blocking(worker.output.fileno(), False)
        self._workers[number] = worker
        self._selector.register(worker.output, selectors.EVENT_READ, worker)

    def _read(self, worker: WorkerHandle) -> bool:
        """Handle the events that the worker has sent; True at the end of its output."""
        data: bytes | None = worker.output.read()
        if data:
            worker.watch.progressed()
            *lines, worker.pending = (worker.pending + data).split(b"\n")
            for line in lines:
                self._handle_event(worker, line)
        return data == b""  # None means that the non-blocking pipe is empty but open

    def _handle_exit(self, worker: WorkerHandle, status: int, stall: Stall | None = None) -> None:
        """Start a replacement for a worker that ended with `status`, or because of `stall`, before it was done."""
        if worker.ended:
            return
        if stall is not None:
            how, rule = f"{stall.why} and was killed", "stall"
        elif status < 0:
            how, rule = f"was killed by {signal_name(-status)}", signal_name(-status)
        else:
            how, rule = f"exited with status {status}", f"exit:{status}"
        data = None if stall is not None and stall.stopped else worker.suspect
        ran = worker.progress.runs
        if data is not None:
            self._suspect(worker, how, rule, data)
            how += " while it ran a program"
            ran += 1
        elif stall is None or not stall.stopped:
            how += f" (see {worker.log})"
        # The program under way is not run again, so a worker that dies in one has done something, if not much.
        productive = worker.progress.runs >= (FEW_RUNS if data is not None else 1)
        self._early_deaths = 0 if productive else self._early_deaths + 1
        if self._early_deaths >= (MAX_PROGRAM_DEATHS if data is not None else MAX_EARLY_DEATHS):
            raise PoolError(f"workers keep dying: worker {worker.number} {how}")
        left = None if worker.runs is None else worker.runs - ran
        if left is None or left > 0:
            self.notices.append(f"worker {worker.number} {how} and was replaced")
            self._launch(worker.number, left)
        else:
            self.notices.append(f"worker {worker.number} {how}")

    def _suspect(self, worker: WorkerHandle, how: str, rule: str, data: bytes) -> None:
        """Note and save the program `data`, in which the worker ended; it is not run again."""
        self._avoid = (*self._avoid, program_key(data))[-MAX_AVOIDED:]
        runs, seconds = self.progress().runs, round(self._seconds(), 3)
        self.deaths.append(death_of(worker.number, how, rule, data, Path(self._job.out), runs, seconds))

    def _handle_event(self, worker: WorkerHandle, line: bytes) -> None:
        event: dict[str, Any] = json.loads(line)
        kind = event.pop("event")
        if kind == "progress":
            worker.progress = Progress(**event)
            if self._start is None and worker.progress.runs:
                self._start = time.monotonic() - worker.progress.seconds
        elif kind == "done":
            worker.ended = True
        elif kind == "finding":
            if self._start is None:
                self._start = time.monotonic() - event["seconds"]
            known = self.discoveries.get(event["identity"])
            if known is None:
                others = self.progress().runs - worker.progress.runs
                seconds = round(self._seconds(), 3)
                discovery = Discovery(**{**event, "runs": others + event["runs"], "seconds": seconds})
                self.discoveries[discovery.identity] = discovery
            elif known.file is None:
                kept = {name: event[name] for name in ("message", "file", "text", "error")}
                self.discoveries[known.identity] = known._replace(**kept)
        elif kind == "error":
            raise PoolError(event["message"])
        elif kind == "broke":
            if self._start is None:
                self._start = time.monotonic()
            if event["identity"] not in self.broken and len(self.broken) < MAX_BROKEN:
                self.broken[event["identity"]] = broken_program(event["message"], event["text"], self._job.out)

    def _end_overdue(self) -> None:
        """Stop all workers when the time of the job is over, and kill those that do not stop."""
        over = -1.0 if self._job.seconds is None else self._seconds() - self._job.seconds
        if over < 0:
            return
        idle = [worker for worker in self._workers.values() if not worker.ended and not worker.progress.runs]
        if idle and over < GRACE_SECONDS:
            some = "a worker" if len(idle) == 1 else f"{len(idle)} workers"
            self.notices.append(f"{some} had run no program when the time was over")
        for worker in list(self._workers.values()):
            if not worker.ended:
                worker.ended = True
                worker.process.terminate()
            elif over >= GRACE_SECONDS:
                # It hangs between two runs or in a call that the watchdog cannot interrupt. Its findings are saved.
                self.notices.append(f"worker {worker.number} did not end in time and was killed")
                worker.process.kill()
                self._reap(worker)
                if worker.suspect is not None:
                    self._suspect(worker, "did not end in time and was killed", "stall", worker.suspect)

    def _end_stalled(self) -> None:
        """Kill and replace the workers that make no progress."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        for worker in list(self._workers.values()):
            if worker.process.poll() is not None:  # a process that it started keeps its output open
                self._handle_exit(worker, self._reap(worker))
            elif (stall := worker.watch.look()) is not None:
                worker.process.kill()
                self._handle_exit(worker, self._reap(worker), stall)

    def _reap(self, worker: WorkerHandle) -> int:
        """Wait for a worker that has ended or is ending, and return its exit status."""
        self._selector.unregister(worker.output)
        status = worker.wait(END_SECONDS)
        try:
            self._read(worker)
        except PoolError as error:
            self.notices.append(str(error))
        worker.output.close()
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

    def _seconds(self) -> float:
        """Time since the first program began."""
        return 0.0 if self._start is None else (self._end or time.monotonic()) - self._start

    def progress(self) -> Progress:
        """Figures of all workers: their sums, but the maximum of features, corpus, last_new and profiles."""
        parts = [*self._done, *(worker.progress for worker in self._workers.values())]
        return Progress(
            sum(part.runs for part in parts),
            sum(part.ops for part in parts),
            round(self._seconds(), 3),
            max((part.features for part in parts), default=0),
            max((part.corpus for part in parts), default=0),
            max((part.last_new for part in parts), default=0.0),
            max((part.profiles for part in parts), default=1),
        )

    def worker_progress(self) -> Progress:
        """Figures of the worker with the most runs, timed by itself: excludes the start-up of its process."""
        return max([*self._done, *(worker.progress for worker in self._workers.values())], key=lambda part: part.runs)
