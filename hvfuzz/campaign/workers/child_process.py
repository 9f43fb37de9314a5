"""Child processes of a campaign: how they start, report events to their parent, and die with it."""

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import IO, Any, Final, NoReturn

EXIT_ERROR: Final = 2
PR_SET_PDEATHSIG: Final = 1


MAX_ARGUMENT: Final = 100_000
"""Linux limits one argument of a process to 128 KiB; a longer job is passed on standard input."""
ON_INPUT: Final = "-"


def launch_child(module: str, job: dict[str, Any], log: Path, handles: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Start ``python -m module`` with `job`. Its events arrive as JSON lines on `stdout`; other output goes to `log`.

    The child inherits the file descriptors `handles`. If `log` cannot be written, its other output is lost. The child
    runs in a new session, so that Ctrl-C on a terminal reaches only the parent, which stops its children in
    order. Hash randomisation is off, so that the same seed gives the same run.
    """
    text = json.dumps(job)
    long = len(text) > MAX_ARGUMENT
    with _open_log(log) as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", module, ON_INPUT if long else text, str(os.getpid())],
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.PIPE if long else subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=handles,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
    stream, process.stdin = process.stdin, None
    if stream is not None:
        # The child reads it when it has started, and a pipe may hold less than that.
        Thread(target=_feed, args=(stream, text.encode()), daemon=True).start()
    return process


def _open_log(log: Path) -> IO[bytes]:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open("ab")
    except OSError:
        return open(os.devnull, "wb")


def _feed(stream: IO[bytes], data: bytes) -> None:
    with suppress(OSError), stream:
        stream.write(data)


class Channel:
    """A child's event stream to its parent. Redirects ordinary standard output to the log."""

    def __init__(self) -> None:
        self._events: Final = os.dup(1)
        os.dup2(2, 1)

    def send(self, event: dict[str, Any]) -> None:
        """Send one event; exits the process if the parent is gone."""
        data = (json.dumps(event) + "\n").encode()
        try:
            while data:
                data = data[os.write(self._events, data) :]
        except BrokenPipeError:
            os._exit(EXIT_ERROR)


def start_child(arguments: list[str]) -> tuple[dict[str, Any], Channel]:
    """Tie the child's life to its parent's, and return the job and the channel."""
    die_with_parent(int(arguments[1]))
    job: dict[str, Any] = json.loads(sys.stdin.read() if arguments[0] == ON_INPUT else arguments[0])
    return job, Channel()


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent, process `parent`, dies; exit if it is dead already."""
    with suppress(OSError, AttributeError):  # Linux only; on other systems a broken pipe ends the child a little later
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(EXIT_ERROR)


def signal_name(number: int) -> str:
    """The name of a signal, such as "SIGKILL"."""
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def exit_with_error(channel: Channel, error: Exception) -> NoReturn:
    """Send the parent an error that the user can act on, and exit."""
    if isinstance(error, OSError):
        message = f"{error.filename or 'output'}: {error.strerror}"
    else:
        message = str(error)
    channel.send({"event": "error", "message": message})
    sys.exit(EXIT_ERROR)
