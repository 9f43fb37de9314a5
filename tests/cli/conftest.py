"""Fixtures for the tests of the command line."""

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

import hvfuzz.cli


class Done(NamedTuple):
    """Exit status and output of a command."""

    status: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """run("repro", path, ...) runs the command in this process."""

    def command(*arguments: object, columns: int = 200) -> Done:
        monkeypatch.setattr(sys, "argv", ["hvfuzz", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as end:
            hvfuzz.cli.main()
        out, err = capsys.readouterr()
        return Done(int(end.value.code or 0), out, err)

    return command
