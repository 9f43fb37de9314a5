"""Exit status and messages of a command that is interrupted, whose reader has gone, or that fails internally."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CRASH = next((ROOT / "crashes").glob("*@xsa-221")) / "program.hvp"
Run = Callable[..., Any]


def command(*arguments: object) -> list[str]:
    """A command line."""
    return [sys.executable, "-m", "hvfuzz.cli", *map(str, arguments)]


def test_no_command_is_a_call_for_help(run: Run) -> None:
    done = run()
    assert done.status == 2
    assert done.out == ""
    assert done.err.startswith("Usage: ")
    assert "hvfuzz doctor" in done.err


def test_ctrl_c_is_one_line() -> None:
    with subprocess.Popen(
        command("bugs", "verify"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ok ")
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate()
    assert (process.returncode, errors.lstrip("\n")) == (130, "hvfuzz: interrupted\n")
    assert "xsa-78" not in rest, "it ended before the last bug"


def test_a_closed_pipe_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(command("abi"), stdout=writer, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def piped(*arguments: object, lines: int) -> tuple[int, str]:
    """Run a command whose reader goes after `lines` lines; returns its exit status and standard error."""
    with subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(lines):
            process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        return process.wait(timeout=600), errors


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_campaign_whose_reader_goes_ends_in_order(tmp_path: Path, form: list[str]) -> None:
    """Status 1 would mean a finding."""
    arguments = ("fuzz", "--engine", "random", "--time", "100", "--out", tmp_path, *form)
    assert piped(*arguments, lines=1) == (141, "")
    assert json.loads((tmp_path / "report.json").read_text())["runs"] > 0


def test_a_campaign_whose_reader_goes_keeps_its_findings(tmp_path: Path) -> None:
    arguments = ("fuzz", "--engine", "random", "--runs", "60", "--seed", "3", "--bug", "pkvm-09cce60bddd")
    assert piped(*arguments, "--out", tmp_path, lines=2) == (1, "")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["findings"]
    assert all(Path(finding["file"]).is_file() for finding in report["findings"])


def test_a_table_whose_reader_goes_is_no_finding() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            command("bugs", "list"), stdout=writer, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


BROKEN = '''"""A bug in hvfuzz itself rather than in the hypervisor."""
from hvfuzz.bugs import Bug

def divide(*args):
    """Raise an exception that no guest can cause."""
    raise ZeroDivisionError("oracles divide by zero")

BUG = Bug("broken", "hvfuzz.oracles.framework.suite:OracleSuite.op_finished", divide)
'''


def test_an_internal_error_is_one_line_and_its_details_are_kept(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = tmp_path / "broken.py"
    path.write_text(BROKEN)
    done = run("repro", CRASH, "--bug", path)
    assert done.status == 70
    assert done.err.startswith("hvfuzz: internal error; please report it: ZeroDivisionError: oracles")
    assert done.err.count("\n") == 1
    (details,) = tmp_path.glob("hvfuzz-error-*.txt")
    assert str(details) in done.err
    assert details.read_text().startswith("Traceback")
    assert 'raise ZeroDivisionError("oracles divide by zero")' in details.read_text()
