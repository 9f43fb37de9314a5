"""Atomic file writes: a reader, or a crash, finds either all of the new contents or none."""

import os
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


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # some file systems cannot do that
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
