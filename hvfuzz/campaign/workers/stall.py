"""Notices a process that has stopped making progress, without blaming a slow or busy machine for it."""

import os
import time
from pathlib import Path
from typing import Final, NamedTuple

IDLE_SECONDS: Final = 20.0
"""A process that waits, or is stopped, and uses no processor time for this long has stalled."""
BUSY_SECONDS: Final = 120.0
"""A process that uses this much processor time without telling of progress has stalled."""
SILENT_SECONDS: Final = 300.0
"""Limit on silence where the processor time of a process cannot be read."""
STEP_SECONDS: Final = 1.0
"""Most of the time between two looks that counts: a longer gap means that the observer itself was stopped."""


class Stall(NamedTuple):
    """Why a process counts as stalled."""

    why: str
    """In words that follow the name of the process."""
    stopped: bool = False
    """Whether a signal (SIGSTOP or a debugger) stopped it, which is not its own doing."""


class StallWatch:
    """Watches process `pid`: call `progressed` when it tells of progress, and `look` several times a second.

    `idle_seconds` is the limit for a process that uses no processor time, `busy_seconds` that on the processor time
    between two steps of progress; None: `IDLE_SECONDS`, `BUSY_SECONDS`.
    """

    def __init__(self, pid: int, idle_seconds: float | None = None, busy_seconds: float | None = None) -> None:
        self._pid: Final = pid
        self._busy: Final = busy_seconds
        self._limit: Final = IDLE_SECONDS if idle_seconds is None else idle_seconds
        self._looked = time.monotonic()
        self._idle = 0.0
        self._silent = 0.0
        self._cpu = 0.0
        self._cpu_at_progress: float | None = None

    def progressed(self) -> None:
        """The process has told of progress."""
        self._idle = self._silent = 0.0
        self._cpu_at_progress = None

    def look(self) -> Stall | None:
        """Why the process counts as stalled; None if it does not."""
        now = time.monotonic()
        step = min(now - self._looked, STEP_SECONDS)
        self._looked = now
        self._silent += step
        state, cpu = _state(self._pid)
        if state is None:
            return Stall(f"was silent for {self._silent:.0f} s") if self._silent >= SILENT_SECONDS else None
        if self._cpu_at_progress is None:
            self._cpu_at_progress = cpu
        # A process that is ready to run waits for a processor only.
        self._idle = 0.0 if state == "R" or cpu != self._cpu else self._idle + step
        self._cpu = cpu
        if self._idle >= self._limit:
            stopped = state in "Tt"
            return Stall(f"{'was stopped by a signal' if stopped else 'did nothing'} for {self._idle:.0f} s", stopped)
        busy = cpu - self._cpu_at_progress
        if busy >= (BUSY_SECONDS if self._busy is None else self._busy):
            return Stall(f"made no progress in {busy:.0f} s of processor time")
        return None


def _state(pid: int) -> tuple[str | None, float]:
    """The state letter of a process (proc(5), field 3) and its processor time; None on other systems than Linux."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
        ticks = int(fields[11]) + int(fields[12])
    except (OSError, IndexError, ValueError):
        return None, 0.0
    return fields[0].decode(), ticks / os.sysconf("SC_CLK_TCK")
