"""A target for programs that end the process that runs them: each program runs in a process of its own."""

import json
import mmap
import os
import select
import signal
import struct
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, NoReturn, Self

from hvfuzz.bugs import Bug
from hvfuzz.campaign.workers.child_process import die_with_parent, signal_name
from hvfuzz.campaign.workers.stall import Stall, StallWatch
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import Op, Program
from hvfuzz.guest.run.trace import Trace
from hvfuzz.oracles.framework.finding import Finding
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget
from hvfuzz.targets.run_observer import RunObserver
from hvfuzz.targets.target import Run

ORACLE: Final = "host_process"
"""The oracle of findings about a process that ended."""
AT_BOOT: Final = -1
IDLE_SECONDS: Final = 5.0
"""Kill a run that waits this long: a host only computes."""
OP_SECONDS: Final = 15.0
"""Kill a run whose op uses this much processor time. The target's watchdog ends an op after a few seconds, but not one
that catches every exception, or that is a single call of C code."""
POLL_SECONDS: Final = 0.1
_INDEX: Final = struct.Struct("<q")


class _OpMarker(RunObserver):
    """Writes the number of the op under way to memory that the parent shares."""

    def __init__(self) -> None:
        self.shared: Final = mmap.mmap(-1, _INDEX.size)

    def op_started(self, index: int, op: Op) -> None:
        _INDEX.pack_into(self.shared, 0, index)


class ForkedTarget:
    """The emulated hypervisor like `EmulatedTarget`; if a program ends its process or blocks it, that is a finding.

    A run has no outcomes and no features. `bug` is planted in every run. Only for a process with a single thread.
    """

    def __init__(self, bug: Bug | None) -> None:
        self._marker: Final = _OpMarker()
        self._inner: Final = EmulatedTarget(bug, observer=self._marker)
        self._booted: Final[set[int]] = set()
        self.ended = False
        """Whether the last program ended its process, or blocked it."""

    @property
    def catalogue(self) -> Catalogue:
        """See `Target.catalogue`."""
        return self._inner.catalogue

    def run(self, program: Program, *, audit: bool = True, digest: bool = False) -> Run:
        """Execute `program` in a new process; see `Target.run`. Raises RuntimeError if hvfuzz itself fails there."""
        self.ended = False
        world = program.world
        if world not in self._booted:
            run = self._fork(lambda: self._inner.run(program._replace(ops=()), audit=False), program)  # only boots
            if run.trace.stopped:
                return run
            self._inner.system(world)  # booted once, and inherited by the processes from here on
            self._booted.add(world)
        return self._fork(lambda: self._inner.run(program, audit=audit, digest=digest), program)

    def _fork(self, work: Callable[[], Run], program: Program) -> Run:
        _INDEX.pack_into(self._marker.shared, 0, AT_BOOT)
        parent = os.getpid()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            _run_child(work, writer, parent)
        os.close(writer)
        try:
            data, stall = _receive(reader, child, self._op)
        finally:
            os.close(reader)
            _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if stall is None and code == 0 and data:
            result = json.loads(data)
            if isinstance(result, str):
                raise RuntimeError(result)
            findings, ops, stopped = result
            trace = Trace()
            trace.stopped = stopped
            return Run(trace, tuple(Finding(*fields) for fields in findings), (), ops)
        return self._ended(program, code, stall)

    def _op(self) -> int:
        """The number of the op under way."""
        (index,) = _INDEX.unpack_from(self._marker.shared)
        return int(index)

    def _ended(self, program: Program, code: int, stall: Stall | None) -> Run:
        """The result of a program whose process ended with `code`, or had to be killed because of `stall`."""
        self.ended = True
        index = self._op()
        operation = "boot" if index == AT_BOOT else program.ops[index].kind.name
        if stall is not None:
            finding = Finding("work", "hang", operation, f"the process of the host {stall.why}", index)
        elif code < 0:
            name = signal_name(-code)
            finding = Finding(ORACLE, name, operation, f"the process of the host was killed by {name}", index)
        else:
            message = f"the process of the host exited with status {code}"
            finding = Finding(ORACLE, f"exit:{code}", operation, message, index)
        trace = Trace()
        trace.stopped = finding.message
        return Run(trace, (finding,), (), index + 1)

    def close(self) -> None:
        """See `Target.close`."""
        self._inner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def deadly_run(program: Program, bug: Bug | None) -> Run | None:
    """Run `program` in a process of its own; returns that run if it ended or blocked the process, else None.

    A command that runs programs in its own process asks this first: it would end with the program, without a word.
    """
    with ForkedTarget(bug) as target:
        try:
            run = target.run(program, audit=False)
        except RuntimeError:  # an error of hvfuzz, which the command itself reports
            return None
        return run if target.ended else None


def _run_child(work: Callable[[], Run], writer: int, parent: int) -> NoReturn:
    """Do `work` and send its result; the process ends here."""
    status: object = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with_parent(parent)
        result: object
        try:
            run = work()
            result = run.findings, run.ops, run.trace.stopped
        except Exception as error:
            result = f"{type(error).__name__}: {error}"
        with open(writer, "wb") as stream:
            stream.write(json.dumps(result).encode())
        status = 0
    except SystemExit as end:
        status = 0 if end.code is None else end.code
    finally:
        os._exit(status if isinstance(status, int) else 1)


def _receive(reader: int, child: int, op: Callable[[], int]) -> tuple[bytes, Stall | None]:
    """The output of process `child`, which performs op number `op()`, up to its end; kills it if it stalls."""
    watch = StallWatch(child, IDLE_SECONDS, OP_SECONDS)
    last = op()
    data = b""
    looked = time.monotonic()
    while True:
        if select.select([reader], [], [], POLL_SECONDS)[0]:
            piece = os.read(reader, 1 << 16)
            if not piece:
                return data, None
            data += piece
        now = time.monotonic()
        if now - looked >= POLL_SECONDS:
            looked = now
            if op() != last:
                last = op()
                watch.progressed()
            stall = watch.look()
            if stall is not None:
                os.kill(child, signal.SIGKILL)
                return data, stall
