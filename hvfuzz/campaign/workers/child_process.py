"""Child processes: how a campaign starts them, how they talk back, and that none outlives its parent."""

import ctypes
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn

EXIT_ERROR: Final = 2
PR_SET_PDEATHSIG: Final = 1


def launch_child(module: str, job: dict[str, Any], log: Path) -> subprocess.Popen[bytes]:
    """Start ``python -m module`` on `job`; its events come as JSON lines from `stdout`, all else goes to `log`.

    The child has a session of its own: Ctrl-C on a terminal reaches the parent alone, which then ends its children in
    order. Hashing is fixed, so that the same seed gives the same run.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(job), str(os.getpid())],
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )


class Channel:
    """A child's way to tell its parent things; whatever prints to standard output goes to the log instead."""

    def __init__(self) -> None:
        self._events: Final = os.dup(1)
        os.dup2(2, 1)

    def send(self, event: dict[str, Any]) -> None:
        """Send one event; a parent that is gone ends this process."""
        data = (json.dumps(event) + "\n").encode()
        try:
            while data:
                data = data[os.write(self._events, data) :]
        except BrokenPipeError:
            os._exit(EXIT_ERROR)


def start_child(arguments: list[str]) -> tuple[dict[str, Any], Channel]:
    """What a child does first: make sure that it ends with its parent, and take over the job."""
    parent = int(arguments[1])
    with suppress(OSError, AttributeError):  # Linux; elsewhere a broken pipe ends the child a little later
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        os._exit(EXIT_ERROR)
    job: dict[str, Any] = json.loads(arguments[0])
    return job, Channel()


def exit_with_error(channel: Channel, error: Exception) -> NoReturn:
    """Tell the parent of an error that it or its user can do something about, and end."""
    if isinstance(error, OSError):
        message = f"{error.filename or 'output'}: {error.strerror}"
    else:
        message = str(error)
    channel.send({"event": "error", "message": message})
    sys.exit(EXIT_ERROR)
