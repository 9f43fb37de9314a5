"""The processes of a campaign: they end in order, are replaced when killed, and lose no findings."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EASY = "pkvm-09cce60bddd"


def command(out: Path, *arguments: str) -> list[str]:
    """The command line of a campaign."""
    return [sys.executable, "-m", "hvfuzz.cli", "fuzz", "--out", str(out), "--json", *arguments]


def fuzz(out: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run a campaign; returns its exit status, the JSON of its last line and its standard error."""
    done = subprocess.run(command(out, *arguments), capture_output=True, text=True, cwd=ROOT, check=False, timeout=120)
    lines = done.stdout.splitlines()
    return done.returncode, json.loads(lines[-1]) if lines else {}, done.stderr


def workers(out: Path) -> list[int]:
    """Ids of the processes of the campaign in `out`."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"hvfuzz.campaign.workers.worker" in line and str(out).encode() in line:
            found.append(int(folder.name))
    return found


@pytest.fixture
def campaign(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A long campaign with two workers."""
    arguments = ("--engine", "random", "--time", "100", "--workers", "2", "--bug", EASY, "--no-minimise")
    with subprocess.Popen(
        command(tmp_path / "out", *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        yield process
        process.kill()


def wait_for_a_finding(out: Path) -> None:
    """Wait until a worker has saved a finding."""
    for _ in range(300):
        if list(out.glob("findings/*/finding.json")):
            return
        time.sleep(0.1)
    pytest.fail("no finding after 30 seconds")


@pytest.mark.parametrize("engine", ["atheris", "hypothesis", "random"])
def test_each_engine_finds_an_easy_bug_and_goes_on(tmp_path: Path, engine: str) -> None:
    status, last, errors = fuzz(
        tmp_path / "out", "--engine", engine, "--runs", "80", "--seed", "1", "--bug", EASY, "--no-minimise"
    )
    assert status == 1, errors
    assert "specification/status/grant.create" in [finding["identity"] for finding in last["findings"]]
    assert last["runs"] > last["findings"][0]["runs"]
    for finding in last["findings"]:
        assert Path(finding["file"]).is_file()


@pytest.mark.parametrize("feedback", ["bytecode", "state", "both"])
def test_each_feedback_grows_a_corpus(tmp_path: Path, feedback: str) -> None:
    out = tmp_path / "out"
    status, last, errors = fuzz(out, "abi", "--runs", "150", "--seed", "1", "--feedback", feedback)
    assert status == 0, errors
    assert last["runs"] == 150
    units = [path for path in (out / "corpus" / "abi").iterdir() if path.is_file()]
    assert len(units) > 5
    shown = subprocess.run(
        [sys.executable, "-m", "hvfuzz.cli", "show", str(units[0])],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert shown.stdout.startswith("# hvp 1"), shown.stderr


@pytest.mark.parametrize("engine", ["atheris", "random"])
def test_the_same_seed_gives_the_same_campaign(tmp_path: Path, engine: str) -> None:
    figures = []
    for number in range(2):
        arguments = ("--engine", engine, "--runs", "120", "--seed", "7", "--bug", EASY, "--no-minimise")
        _, last, _ = fuzz(tmp_path / str(number), *arguments)
        found = [(finding["identity"], finding["runs"]) for finding in last["findings"]]
        figures.append((last["runs"], last["ops"], last["features"], found))
    assert figures[0] == figures[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(campaign: "subprocess.Popen[str]", tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "out"
    wait_for_a_finding(out)
    campaign.send_signal(number)
    stdout, _ = campaign.communicate(timeout=120)
    assert campaign.returncode == 128 + number
    last = json.loads(stdout.splitlines()[-1])
    assert last["findings"]
    assert workers(out) == []


def test_a_killed_worker_is_replaced(campaign: "subprocess.Popen[str]", tmp_path: Path) -> None:
    out = tmp_path / "out"
    wait_for_a_finding(out)
    killed = workers(out)[0]
    os.kill(killed, signal.SIGKILL)
    for _ in range(100):
        now = workers(out)
        if len(now) == 2 and killed not in now:
            break
        time.sleep(0.1)
    assert len(workers(out)) == 2
    campaign.send_signal(signal.SIGINT)
    stdout, _ = campaign.communicate(timeout=120)
    last = json.loads(stdout.splitlines()[-1])
    assert last["findings"]
    assert any("SIGKILL" in notice for notice in last["notices"])


def test_workers_do_not_outlive_a_killed_parent(campaign: "subprocess.Popen[str]", tmp_path: Path) -> None:
    out = tmp_path / "out"
    wait_for_a_finding(out)
    campaign.kill()
    campaign.wait()
    for _ in range(100):
        if not workers(out):
            return
        time.sleep(0.1)
    pytest.fail("workers live on")


@pytest.mark.parametrize("name", ["hypercalls", "abi", "translation", "dma", "multicall"])
def test_a_harness_runs_by_itself(tmp_path: Path, name: str) -> None:
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "harnesses" / f"fuzz_{name}.py"),
            str(ROOT / "corpus" / name),
            "-runs=60",
            "-seed=1",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "FINDING" not in done.stderr
    assert (tmp_path / "out" / "corpus" / name).is_dir()
    assert not [path for path in (ROOT / "corpus" / name).iterdir() if path.suffix != ".hvp"]
