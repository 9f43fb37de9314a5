"""The program under way outlives the process that runs it."""

import os
import resource
from pathlib import Path

import pytest

from hvfuzz.engines.current_program import CurrentProgram


def test_a_program_is_there_while_it_runs() -> None:
    record = CurrentProgram.create()
    other = CurrentProgram(record.handle)
    assert other.read() is None
    for data in (b"long program", b"short", b""):
        record.begin(data)
        assert other.read() == data
    record.end()
    assert other.read() is None
    record.close()


def test_a_process_that_dies_leaves_its_program() -> None:
    record = CurrentProgram.create()
    child = os.fork()
    if child == 0:
        record.begin(b"deadly")
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert record.read() == b"deadly"
    record.close()


@pytest.mark.parametrize("limit", [1, 100])
def test_a_limit_on_file_sizes_is_obeyed(limit: int) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        record = CurrentProgram.create()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    record.begin(bytes(1000))
    assert record.read() is None
    record.begin(b"short")
    assert record.read() == (b"short" if limit == 100 else None)
    record.end()
    record.close()


def test_handles_are_not_leaked() -> None:
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("needs /proc")
    before = len(list(folder.iterdir()))
    for _ in range(5):
        CurrentProgram.create().close()
    assert len(list(folder.iterdir())) == before
