"""The commands `hvfuzz bench bugs` and `hvfuzz bench clean`."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hvfuzz.cli.bench.bug_trials
import hvfuzz.cli.bench.false_alarms
from hvfuzz.bugs import find_bug
from hvfuzz.campaign.workers.worker import WorkerJob
from hvfuzz.cli.bench.benchmark_job import benchmark_job
from hvfuzz.guest.grammar.weight_profiles import TURN

Run = Callable[..., Any]
EASY = "pkvm-09cce60bddd"


def test_bugs_measures_each_trial(run: Run) -> None:
    arguments = ("--trials", 2, "--seed", 5, "--engine", "random", "--time", 9999)
    document = json.loads(run("bench", "bugs", EASY, *arguments, "--json").out)
    (row,) = document["bugs"]
    assert (row["bug"], row["difficulty"], row["found"]) == (EASY, 2, 2)
    assert [trial["seed"] for trial in row["trials"]] == [5, 6]
    runs = [trial["runs"] for trial in row["trials"]]
    assert row["programs"] == {"median": sum(runs) / 2, "low": min(runs), "high": max(runs)}
    assert not document["interrupted"]
    done = run("bench", "bugs", EASY, *arguments, "--workers", 2)
    assert done.status == 0
    (line,) = (line for line in done.out.splitlines() if line.startswith(f"{EASY} "))
    assert line.split()[1:5] == ["2", "2", "of", "2"]
    assert f"{min(runs):,}-{max(runs):,}" in line
    assert f"{EASY}, seed 6: found specification/" in done.err


def test_bugs_says_what_was_not_found_and_what_else_was(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def counted(*arguments: Any) -> WorkerJob:
        return benchmark_job(*arguments)._replace(seconds=None, runs=150)

    monkeypatch.setattr(hvfuzz.cli.bench.bug_trials, "benchmark_job", counted)
    other = tmp_path / "other.py"
    other.write_text(
        "from dataclasses import replace\nfrom hvfuzz.bugs import find_bug\n"
        f"BUG = replace(find_bug({EASY!r}), name='other', findings=('work/steps/memory.populate',))\n"
    )
    done = run("bench", "bugs", other, "--trials", 1, "--engine", "random")
    assert done.status == 0
    (line,) = (line for line in done.out.splitlines() if line.startswith("other "))
    assert line.split()[2:] == ["0", "of", "1", "-", "-", "-", "-"]
    assert "other: also found specification/status/grant.create in 1 of 1 trial" in done.out


def test_a_trial_that_ran_nothing_is_no_result(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def idle(*arguments: Any) -> WorkerJob:
        return benchmark_job(*arguments)._replace(seconds=None, runs=0)

    monkeypatch.setattr(hvfuzz.cli.bench.bug_trials, "benchmark_job", idle)
    done = run("bench", "bugs", EASY, "--trials", 2, "--engine", "random")
    assert done.status == 2
    assert done.err.splitlines()[-1] == "hvfuzz: no program ran: the workers had none to run"


def test_bugs_takes_seeds(run: Run, tmp_path: Path) -> None:
    (tmp_path / "seed.hvp").write_text(find_bug("xsa-221").trigger)
    done = run("bench", "bugs", "xsa-221", "--trials", 1, "--engine", "replay", "--corpus", tmp_path, "--json")
    (row,) = json.loads(done.out)["bugs"]
    assert row["programs"]["high"] == 1


def test_clean_says_what_ran(run: Run) -> None:
    done = run("bench", "clean", "dma", "abi", "--ops", 1500, "--workers", 2)
    assert done.status == 0, done.err
    lines = [line.split() for line in done.out.splitlines()]
    assert [line[0] for line in lines] == ["harness", "dma", "abi", "all"]
    assert all(line[-1] == "0" for line in lines[1:])
    assert lines[0][3] == "profiles"
    rows = json.loads(run("bench", "clean", "fuzz_dma", "--ops", 900, "--json").out)["harnesses"]
    assert rows[0]["harness"] == "dma"
    assert rows[0]["ops"] >= 900
    # The seeds run first, and belong to no profile.
    assert rows[0]["profiles"] <= 1 + rows[0]["runs"] // TURN


def test_a_finding_of_clean_ends_in_status_1_and_is_kept(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def faulty(*arguments: Any) -> WorkerJob:
        return benchmark_job(*arguments)._replace(bug="xsa-221", engine="random")

    monkeypatch.setattr(hvfuzz.cli.bench.false_alarms, "benchmark_job", faulty)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    done = run("bench", "clean", "hypercalls", "--ops", 500)
    assert done.status == 1
    assert "host_memory/null/sched.poll" in done.out
    (file,) = {line.split()[-1] for line in done.out.splitlines() if "hvfuzz repro" in line and "null" in line}
    assert run("repro", file).status == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bugs", "xsa-9"), "no bug 'xsa-9'"),
        (("bugs", "nowhere.py"), "nowhere.py: no such file"),
        (("bugs", "--corpus", "/nowhere"), "'/nowhere' does not exist"),
        (("bugs", "--engine", "afl"), "no engine 'afl'"),
        (("bugs", "--engine", "replay"), "needs seeds"),
        (("bugs", "--trials", "0"), "--trials"),
        (("bugs", "--time", "soon"), "--time"),
        (("clean", "dna"), "did you mean 'dma'"),
        (("clean", "--ops", "0"), "--ops"),
    ],
)
def test_bad_input_is_one_line(run: Run, arguments: tuple[str, ...], message: str) -> None:
    done = run("bench", *arguments)
    assert done.status == 2
    assert message in done.err
    assert done.err.count("\n") == 1


def test_a_bug_that_promises_nothing_cannot_be_found(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mute.py"
    path.write_text(
        "from dataclasses import replace\nfrom hvfuzz.bugs import find_bug\n"
        "BUG = replace(find_bug('xsa-221'), name='mute', findings=())\n"
    )
    done = run("bench", "bugs", path)
    assert done.status == 2
    assert "mute: `findings` is empty" in done.err
