"""The program that a process is running, in memory that outlives the process."""

import mmap
import os
import resource
import struct
import tempfile
from typing import Final, Self

CAPACITY: Final = 1 << 20
"""Bytes of the record, far above the longest program; pages are taken only when they are written."""
_LENGTH: Final = struct.Struct("<I")


class CurrentProgram:
    """A record shared by its file descriptor `handle`: the parent creates it, and the child that inherits it writes it.

    The record holds a program in byte form while it runs, and nothing between two programs. If the child dies, however
    suddenly, the parent reads what it was running. The record needs no disk.
    """

    def __init__(self, handle: int) -> None:
        self.handle: Final = handle
        self._bytes: Final = mmap.mmap(handle, 0)

    @classmethod
    def create(cls) -> Self:
        """A new, empty record. Raises OSError if the machine has no memory for it."""
        if hasattr(os, "memfd_create"):
            handle = os.memfd_create("hvfuzz-program")
        else:
            with tempfile.TemporaryFile() as file:
                handle = os.dup(file.fileno())
        try:
            limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
            os.ftruncate(handle, CAPACITY if limit == resource.RLIM_INFINITY else max(min(CAPACITY, limit), 1))
            return cls(handle)
        except (OSError, ValueError):
            os.close(handle)
            raise

    def begin(self, data: bytes) -> None:
        """Note that the program encoded as `data` is about to run; a program that does not fit is not noted."""
        end = _LENGTH.size + len(data)
        record = self._bytes
        if end <= len(record):
            record[_LENGTH.size : end] = data
            _LENGTH.pack_into(record, 0, len(data) + 1)  # 0 means none, so an empty program counts as 1

    def end(self) -> None:
        """Note that no program is running."""
        if len(self._bytes) >= _LENGTH.size:
            _LENGTH.pack_into(self._bytes, 0, 0)

    def read(self) -> bytes | None:
        """The program under way; None if there is none."""
        record = self._bytes
        if len(record) < _LENGTH.size:
            return None
        length: int = _LENGTH.unpack_from(record)[0]
        return record[_LENGTH.size : _LENGTH.size + length - 1] if length else None

    def close(self) -> None:
        """Release the record in this process."""
        self._bytes.close()
        os.close(self.handle)
