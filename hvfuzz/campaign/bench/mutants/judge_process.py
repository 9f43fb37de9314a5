"""Judges mutants in processes of their own, since a mutant may hang, end its process, or use up memory."""

import json
import mmap
import os
import resource
import select
import signal
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from typing import Final, NoReturn

from hvfuzz.abi.boot import WORLDS
from hvfuzz.campaign.bench.mutants.judging import BY_CORPUS, BY_FUZZING, INTERNAL, KILLED, RANDOM, Judgement, judge
from hvfuzz.campaign.bench.mutants.mutant import Mutant
from hvfuzz.campaign.bench.mutants.reach import NamedProgram, Reach
from hvfuzz.campaign.deaths import UNKNOWN
from hvfuzz.campaign.forked_target import IDLE_SECONDS, ORACLE
from hvfuzz.campaign.workers.child_process import die_with_parent, signal_name
from hvfuzz.campaign.workers.stall import Stall, StallWatch
from hvfuzz.engines.engine import error_key
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

PROGRAM_SECONDS: Final = 60.0
"""Kill a process whose program uses this much processor time. The watchdog of the target ends it long before, but not
an op that catches every exception, or that is a single call of C code."""
MEMORY: Final = 3 << 30
"""Bytes of address space that a process may use on top of what it inherits."""
POLL_SECONDS: Final = 0.1
NAME_SIZE: Final = 256


class _Progress:
    """Shared memory in which a process names the program under way, behind the number of programs begun."""

    def __init__(self) -> None:
        self._shared: Final = mmap.mmap(-1, 8 + NAME_SIZE)

    def begin(self, named: NamedProgram) -> None:
        """A program begins."""
        name = named.name.encode(errors="replace")[:NAME_SIZE]
        self._shared[8:] = name.ljust(NAME_SIZE, b"\0")
        self._shared[:8] = (self.count() + 1).to_bytes(8, "little")

    def count(self) -> int:
        """Number of programs begun."""
        return int.from_bytes(self._shared[:8], "little")

    def name(self) -> str:
        """The program under way."""
        return self._shared[8:].rstrip(b"\0").decode(errors="replace")


class _Process:
    """A process that judges `mutant`."""

    def __init__(self, mutant: Mutant, reach: Reach, booted: EmulatedTarget, budget: int, seed: int) -> None:
        self._unknown: Final = Judgement(mutant, KILLED, budget, seed, bool(reach.programs_at(mutant)))
        self._progress: Final = _Progress()
        self._seen = 0
        self._data = b""
        parent = os.getpid()
        self.reader, writer = os.pipe()
        self._pid: Final = os.fork()
        if self._pid == 0:
            _run_child(mutant, reach, booted, budget, seed, self._progress, writer, parent)
        os.close(writer)
        self._watch: Final = StallWatch(self._pid, IDLE_SECONDS, PROGRAM_SECONDS)

    def read(self) -> Judgement | None:
        """Read what has arrived; the judgement once the process has ended."""
        piece = os.read(self.reader, 1 << 16)
        if piece:
            self._data += piece
            return None
        return self._end(None)

    def look(self) -> Judgement | None:
        """The judgement of a process that makes no progress, which is killed."""
        count = self._progress.count()
        if count != self._seen:
            self._seen = count
            self._watch.progressed()
        stall = self._watch.look()
        if stall is None or stall.stopped:
            return None
        os.kill(self._pid, signal.SIGKILL)
        return self._end(stall)

    def kill(self) -> None:
        """End the process without a judgement."""
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        self._close()

    def _close(self) -> int:
        os.close(self.reader)
        _, status = os.waitpid(self._pid, 0)
        return os.waitstatus_to_exitcode(status)

    def _end(self, stall: Stall | None) -> Judgement:
        code = self._close()
        if stall is None and code == 0 and self._data:
            document = json.loads(self._data)
            if isinstance(document, str):
                return self._unknown._replace(verdict=INTERNAL, finding=document)
            return Judgement.read(document)
        # Its end is an oracle's finding, too: what the host must not do.
        name = self._progress.name()
        if stall is not None:
            rule, message = "work/hang", f"the process of the host {stall.why}"
        elif code < 0:
            rule = f"{ORACLE}/{signal_name(-code)}"
            message = f"the process of the host was killed by {signal_name(-code)}"
        else:
            rule, message = f"{ORACLE}/exit:{code}", f"the process of the host exited with status {code}"
        return self._unknown._replace(
            by=BY_FUZZING if name.startswith(RANDOM) else BY_CORPUS,
            finding=rule + UNKNOWN,
            message=message,
            program=name,
            programs=self._progress.count(),
        )


def judge_all(
    mutants: Sequence[Mutant], reach: Reach, budget: int, seed: int, workers: int
) -> Generator[Judgement | None, None, None]:
    """Judge each of `mutants`, `workers` at a time; yields each judgement when it is there, and None while it waits.

    Closing the generator kills the processes under way. For a process with a single thread.
    """
    waiting = deque(mutants)
    begun: list[_Process] = []
    with EmulatedTarget(mutated=True) as booted:
        for world in range(len(WORLDS)):
            booted.system(world)  # inherited by the processes
        try:
            while waiting or begun:
                while waiting and len(begun) < workers:
                    begun.append(_Process(waiting.popleft(), reach, booted, budget, seed))
                ready, _, _ = select.select([process.reader for process in begun], [], [], POLL_SECONDS)
                for process in list(begun):
                    judgement = process.read() if process.reader in ready else process.look()
                    if judgement is not None:
                        begun.remove(process)
                        yield judgement
                yield None
        finally:
            for process in begun:
                process.kill()


def _run_child(
    mutant: Mutant,
    reach: Reach,
    booted: EmulatedTarget,
    budget: int,
    seed: int,
    progress: _Progress,
    writer: int,
    parent: int,
) -> NoReturn:
    """Judge, and send the judgement; the process ends here."""
    status: object = 1
    try:
        # Ctrl-C reaches the whole group: the parent decides.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        die_with_parent(parent)
        _limit_memory()
        result: object
        try:
            result = judge(mutant, reach, booted, budget, seed, progress.begin).plain()
        except Exception as error:
            result = f"{error_key(error)}: {error}"
        with open(writer, "wb") as stream:
            stream.write(json.dumps(result).encode())
        status = 0
    except SystemExit as end:
        status = 0 if end.code is None else end.code
    finally:
        os._exit(status if isinstance(status, int) else 1)


def _limit_memory() -> None:
    """Limit the address space, so that a host which allocates without end gets a MemoryError before others suffer."""
    with suppress(OSError, ValueError, IndexError):
        with open("/proc/self/statm", "rb") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = used + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
