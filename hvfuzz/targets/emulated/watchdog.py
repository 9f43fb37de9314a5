"""A watchdog of the emulated host: it interrupts an op that does not end, so that the fuzzer goes on."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Final, Self

LIMIT: Final = 2.0
"""Seconds of this process's user time that one op may take; wall time would depend on the load of the machine. The
longest legal op takes a few hundredths of a second."""


class Hang(BaseException):
    """The current op does not end. Not an Exception, so that no code of the host catches it."""


class Watchdog:
    """While entered, raises `Hang` when `beat` does not change for one to two times `limit` seconds.

    It uses SIGVTALRM and ITIMER_VIRTUAL, so only one can be entered at a time. Python delivers signals to the main
    thread only: in another thread, entering a watchdog has no effect.
    """

    __slots__ = ("_before", "_running", "_seen", "beat", "limit")

    def __init__(self, limit: float = LIMIT) -> None:
        self.limit: Final = limit
        self.beat = 0
        self._running = False
        self._seen = -1
        self._before: signal._HANDLER = None

    def _look(self, number: int, frame: FrameType | None) -> None:
        if self._running and self._seen == self.beat:
            self._seen = -1
            raise Hang
        self._seen = self.beat

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGVTALRM, self._look)
            signal.setitimer(signal.ITIMER_VIRTUAL, self.limit, self.limit)
            self._seen = -1
            self._running = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running:
            self._running = False  # A signal that is on its way raises nothing from here on.
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, self._before)
