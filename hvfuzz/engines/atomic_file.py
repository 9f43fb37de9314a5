"""Atomic file writes: a reader, or a crash, finds either all of the new contents or none."""

import os
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically; an OSError names `path`."""
    # Cut, so that the temporary name is possible whenever `path` is (and not made with `with_name`, which rejects ".").
    temporary = path.parent / f".{path.name[:40]}.{os.getpid()}"
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # the name that the user knows, not the temporary one
        raise
