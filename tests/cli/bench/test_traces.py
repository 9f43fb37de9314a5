"""The command `hvfuzz bench traces`."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hvfuzz.campaign.bench import trace_equality

Run = Callable[..., Any]


def test_all_runs_are_the_same(run: Run) -> None:
    document = json.loads(
        run("bench", "traces", "--programs", 12, "--seed", 3, "--python", sys.executable, "--json").out
    )
    assert [rerun["name"] for rerun in document["runs"]] == [
        "another order",
        "another process",
        f"with {sys.executable}",
    ]
    assert document["different"] == 0
    again = run("bench", "traces", "--programs", 12, "--seed", 3)
    assert again.status == 0
    assert document["digest"] in again.out
    assert json.loads(run("bench", "traces", "--programs", 12, "--seed", 4, "--json").out)["digest"] not in again.out


@pytest.mark.parametrize(("change", "different"), [("x{}", "0, 1, 2"), ("", "2")])
def test_a_difference_is_told(run: Run, monkeypatch: pytest.MonkeyPatch, change: str, different: str) -> None:
    """A run whose fingerprints differ, or that ends early."""
    shuffled_lines = trace_equality.shuffled_lines

    def wrong(count: int, seed: int) -> list[str]:
        right = shuffled_lines(count, seed)
        return [change.format(line) for line in right] if change else right[:-1]

    monkeypatch.setattr("hvfuzz.cli.bench.traces.shuffled_lines", wrong)
    done = run("bench", "traces", "--programs", 3)
    assert done.status == 1
    assert f"different: programs {different}" in done.out


def test_an_interpreter_that_is_none(run: Run, tmp_path: Path) -> None:
    missing = run("bench", "traces", "--programs", 1, "--python", tmp_path / "python")
    assert missing.status == 2
    assert missing.err.splitlines()[-1] == f"hvfuzz: {tmp_path / 'python'}: No such file or directory"
    useless = run("bench", "traces", "--programs", 1, "--python", "/bin/false")
    assert useless.status == 2
    assert "/bin/false cannot run the programs: exited with status 1" in useless.err


@pytest.mark.parametrize("body", ["exit 0", "echo 3.12", "echo a; echo b", "printf '\\377'", "echo no >&2; exit 3"])
def test_a_program_that_is_no_interpreter_is_no_difference(run: Run, tmp_path: Path, body: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{body}\n")
    python.chmod(0o755)
    done = run("bench", "traces", "--programs", 2, "--python", python)
    assert done.status == 2
    assert done.out == ""
    assert f"{python} cannot run the programs: " in done.err.splitlines()[-1]
