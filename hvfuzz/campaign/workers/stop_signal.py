"""Orderly shutdown: a signal sets a flag, which long-running work polls."""

import os
import signal
from types import FrameType, TracebackType
from typing import Final, Self

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignal:
    """Context in which the first SIGINT, SIGTERM or SIGHUP is stored in `signal`; a second one kills the process.

    Killing is safe: findings are on disk by then, and child processes die with their parent.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, signal._HANDLER] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.signal = number

    @property
    def status(self) -> int:
        """Exit status for the signal received (128 + its number); 0 if there was none."""
        return 128 + self.signal if self.signal else 0

    def requested(self) -> bool:
        """Whether a signal has arrived."""
        return self.signal != 0

    def __enter__(self) -> Self:
        for number in SIGNALS:
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # started by nohup
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
