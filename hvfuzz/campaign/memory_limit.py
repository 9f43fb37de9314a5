"""A bound on the memory of a process, so that a host that allocates without end does not take the machine with it."""

import resource
from contextlib import suppress
from typing import Final

LIMIT: Final = 5 << 30
"""Bytes, about ten times what a worker needs; `hvfuzz bench speed` emulates up to 2 GiB of memory."""


def limit_memory() -> None:
    """Let this process and its children allocate at most `LIMIT` bytes each; more is a MemoryError."""
    # A system may refuse, or not know, the limit; the campaign then runs without it.
    with suppress(OSError, ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if soft == resource.RLIM_INFINITY or soft > LIMIT:
            resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, hard))
