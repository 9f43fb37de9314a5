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
ROOT: Final = str(Path(__file__).parents[3])
"""The folder that holds the package hvfuzz, as it is imported here."""
_ISOLATED: Final = """\
import runpy, sys
root, module = sys.argv[1:3]
if root not in sys.path:
    sys.path.insert(0, root)
del sys.argv[1:3]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def python_command(module: str, *arguments: str, python: str = sys.executable) -> list[str]:
    """The command that runs ``python -m module`` of the package hvfuzz as it is imported here.

    With -P, and unlike with -m, Python imports nothing from the current folder: it may hold a `random.py` from anyone.
    """
    return [python, "-P", "-c", _ISOLATED, ROOT, module, *arguments]


def python_environment(hash_seed: int = 0) -> dict[str, str]:
    """The environment of such a command: hash randomisation is fixed, so that the same seed gives the same run.

    PYTHONPATH stays as the user has set it, but without its empty entries, which mean the current folder.
    """
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    if "PYTHONPATH" in environment:
        entries = environment["PYTHONPATH"].split(os.pathsep)
        environment["PYTHONPATH"] = os.pathsep.join(entry for entry in entries if entry)
    return environment


def launch_child(module: str, job: dict[str, Any], log: Path, handles: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Start ``python -m module`` with `job`. Its events arrive as JSON lines on `stdout`; other output goes to `log`.

    The child inherits the file descriptors `handles`. If `log` cannot be written, its other output is lost. The child
    runs in a new session, so that Ctrl-C on a terminal reaches only the parent, which stops its children in
    order.
    """
    text = json.dumps(job)
    long = len(text) > MAX_ARGUMENT
    with _open_log(log) as errors:
        process = subprocess.Popen(
            python_command(module, ON_INPUT if long else text, str(os.getpid())),
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.PIPE if long else subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=handles,
            env=python_environment(),
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
    channel.send({"event": "error", "message": message_of(error)})
    sys.exit(EXIT_ERROR)


def message_of(error: Exception) -> str:
    """One line for an error that the user can act on; that of the system says what it is about."""
    if isinstance(error, OSError):
        return f"{error.filename or 'output'}: {error.strerror}"
    return "out of memory" if isinstance(error, MemoryError) else str(error)
