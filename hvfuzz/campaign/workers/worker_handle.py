"""A worker process as its pool sees it, and what workers tell of: findings, and programs that ended them."""

import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from hvfuzz.campaign.program_files import SUFFIX
from hvfuzz.campaign.workers.stall import StallWatch
from hvfuzz.engines.atomic_file import write_atomically
from hvfuzz.engines.current_program import CurrentProgram
from hvfuzz.engines.engine import Progress, program_key
from hvfuzz.guest.format.binary import decode
from hvfuzz.guest.format.text import render
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI


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


class Death(NamedTuple):
    """A worker that ended in the middle of a program, which is suspected of having ended it."""

    how: str
    """How it ended, in words that follow the name of the worker."""
    rule: str
    """The same as a rule of a finding, such as "SIGKILL"."""
    text: str
    """The program in text form."""
    file: str | None
    """Path of the program; None if it could not be saved."""
    worker: int
    runs: int
    """Number of programs that all workers together had run by then."""
    seconds: float


def death_of(worker: int, how: str, rule: str, data: bytes, out: Path, runs: int, seconds: float) -> Death:
    """Describe a death in the program encoded as `data`, and save the program below the folder `out`."""
    text = render(decode(data, catalogue(ABI)))
    file = None
    path = out / "deaths" / f"{program_key(data)}{SUFFIX}"
    with suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, text.encode(), durable=True)
        file = str(path)
    return Death(how, rule, text, file, worker, runs, seconds)


class BrokenProgram(NamedTuple):
    """A program in which hvfuzz itself failed."""

    message: str
    text: str
    """The program in text form."""
    file: str | None
    """Path of the program; None if it could not be saved."""


def broken_program(message: str, text: str, out: str) -> BrokenProgram:
    """Describe an internal error, and set its program aside below the folder `out`."""
    path = Path(out) / "broken" / f"{program_key(text.encode())}{SUFFIX}"
    try:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, text.encode(), durable=True)
    except OSError:
        return BrokenProgram(message, text, None)
    return BrokenProgram(message, text, str(path))


class WorkerHandle:
    """One process, its latest figures, and the incomplete last line of its output (`pending`)."""

    def __init__(
        self, number: int, runs: int | None, process: subprocess.Popen[bytes], log: Path, current: CurrentProgram | None
    ) -> None:
        self.number: Final = number
        self.runs: Final = runs
        self.process: Final = process
        self.log: Final = log
        self._current: Final = current
        self.watch: Final = StallWatch(process.pid)
        self.pending = b""
        self.progress = Progress(0, 0, 0.0, 0, 0, 0.0)
        self.ended = False
        """Whether it has said that it is done, or was told to end."""
        self.suspect: bytes | None = None
        """The program in which it ended, after `wait`."""

    @property
    def output(self) -> Any:
        """Its stream of events."""
        assert self.process.stdout is not None
        return self.process.stdout

    def wait(self, seconds: float) -> int:
        """Wait for a process that has ended or is ending, or else kill it after `seconds`; returns its exit status."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        if self._current is not None:
            self.suspect = self._current.read()
            self._current.close()
        return status
