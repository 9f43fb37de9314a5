"""A watchdog of the emulated host: it interrupts an op that does not end, so that the fuzzer goes on."""

import signal
from types import FrameType, TracebackType
from typing import Final, Self

LIMIT: Final = 2.0
"""Seconds of this process's user time that one op may take; wall time would depend on the load of the machine. The
longest legal op takes a few hundredths of a second."""


class Hang(BaseException):
    """The current op does not end. Not an Exception, so that no code of the host catches it."""


class Watchdog:
    """While entered, raises `Hang` in the main thread when `running` is set and `beat` does not change.

    `Hang` comes after one to two times `limit` seconds. The watchdog uses SIGVTALRM and ITIMER_VIRTUAL, so only one can
    be entered at a time, in the main thread.
    """

    __slots__ = ("_before", "_seen", "beat", "limit", "running")

    def __init__(self, limit: float = LIMIT) -> None:
        self.limit: Final = limit
        self.beat = 0
        self.running = False
        self._seen = -1
        self._before: signal._HANDLER = None

    def _look(self, number: int, frame: FrameType | None) -> None:
        if not self.running:
            self._seen = -1
        elif self._seen == self.beat:
            self._seen = -1
            raise Hang
        else:
            self._seen = self.beat

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGVTALRM, self._look)
        signal.setitimer(signal.ITIMER_VIRTUAL, self.limit, self.limit)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, self._before)
