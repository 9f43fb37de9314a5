"""Atomic file writes: a reader, or a crash, finds either all of the new contents or none."""

import os
import stat
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Write `data` to `path` atomically; an OSError names `path`.

    With `durable`, the contents are on the disk when this returns, so that not even a power failure loses them.
    """
    # Cut, so that the temporary name is possible whenever `path` is (and not made with `with_name`, which rejects ".").
    temporary = path.parent / f".{path.name[:40]}.{os.getpid()}"
    try:
        with temporary.open("wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
        if durable:
            _sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # the name that the user knows, not the temporary one
        raise


def write_output(path: Path, data: bytes) -> None:
    """Write `data` to the file that a user names, as a shell would write to it; an OSError names `path`.

    A link stays, and its target is written. A device or a pipe, such as /dev/stdout, is written to: renaming a file
    over it would replace it. Any other file is written atomically and durably.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    try:
        if stat.S_ISREG(mode):
            write_atomically(Path(os.path.realpath(path)), data, durable=True)
        else:
            with path.open("wb", buffering=0) as file:
                left = memoryview(data)
                while left:
                    left = left[file.write(left) :]
    except OSError as error:
        error.filename = str(path)
        raise


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # some file systems cannot do that
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
