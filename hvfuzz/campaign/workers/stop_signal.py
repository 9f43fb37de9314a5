"""Orderly shutdown: a signal sets a flag, which long-running work polls."""

import os
import signal
import time
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Final, Self

SIGNALS: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    # Whatever else would end the process without a report: Ctrl-\, a limit on processor time, and other tools' signals.
    signal.SIGQUIT,
    signal.SIGXCPU,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
)
PATIENCE_SECONDS: Final = 10.0
"""Signals this soon after the first belong to the same request: `timeout` sends two at once, people press Ctrl-C twice.
Everything that follows a signal (stopping children, writing the report) takes less time than that."""
SHOW_CURSOR: Final = b"\x1b[?25h"


class StopSignal:
    """Context in which the first of `SIGNALS` is stored in `signal`.

    More signals change nothing until `PATIENCE_SECONDS` later; one after that kills the process, in case it hangs.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._first = 0.0
        self._before: dict[int, signal._HANDLER] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.signal:
            self.signal = number
            self._first = time.monotonic()
        elif time.monotonic() - self._first >= PATIENCE_SECONDS:
            # A live view has hidden the cursor, and will not come to show it again.
            with suppress(OSError):
                if os.isatty(1):
                    os.write(1, SHOW_CURSOR)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

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
