"""A program that ends its worker is a finding; a worker that something else ended is not, and no program is lost."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hvfuzz.bugs import find_bug
from hvfuzz.campaign.campaign import Campaign
from hvfuzz.campaign.deaths import judge_deaths
from hvfuzz.campaign.forked_target import ForkedTarget
from hvfuzz.campaign.program_files import read_program
from hvfuzz.campaign.report import Summary
from hvfuzz.campaign.workers.stop_signal import StopSignal
from hvfuzz.campaign.workers.worker import WorkerJob
from hvfuzz.campaign.workers.worker_handle import Death
from hvfuzz.guest.format.text import parse, render
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI

ROOT = Path(__file__).parents[2]
DEADLY = '''"""A bug whose host takes the whole process with it."""
import ctypes, os, signal, sys, time
from hvfuzz.bugs import Bug

def polled_port(*arguments):
    """End the process, or block it."""
    {end}

BUG = Bug("deadly", "hvfuzz.hypervisor.hypercalls.sched:polled_port", polled_port)
'''
POLL = "sched.poll(dom1, ports=[5], count=1, timeout=0)"


@pytest.fixture
def deadly(tmp_path: Path) -> Callable[[str], Path]:
    """deadly(code) writes a bug that runs `code` in sched.poll, and returns its path."""

    def write(end: str) -> Path:
        path = tmp_path / "deadly.py"
        path.write_text(DEADLY.format(end=end))
        return path

    return write


def fuzz(out: Path, engine: str, bug: Path, seed: Path, runs: int = 40) -> Summary:
    """A campaign of one worker that starts from one seed; confirms its findings."""
    job = WorkerJob("hypercalls", engine, 1, None, runs, str(bug), "state", str(out), [str(seed)])
    with StopSignal() as stop:
        campaign = Campaign(job, 1, stop)
        for _ in campaign.fuzz():
            if campaign.pool.deaths:
                break
        return campaign.finish(minimise=True)


@pytest.mark.parametrize(
    ("engine", "end", "rule"),
    [
        ("random", "os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("atheris", "os._exit(0)", "exit:0"),
        ("atheris", "ctypes.string_at(0)", "SIGSEGV"),
        ("hypothesis", "os._exit(3)", "exit:3"),
    ],
)
def test_a_program_that_ends_its_worker_is_a_finding(
    tmp_path: Path, text: Callable[..., str], deadly: Callable[[str], Path], engine: str, end: str, rule: str
) -> None:
    pytest.importorskip(engine if engine != "random" else "click")
    seed = tmp_path / "seed.hvp"
    seed.write_text(text("pause(dom1)", POLL, "pause(dom2)"))
    summary = fuzz(tmp_path / "out", engine, deadly(end), seed)
    assert summary.headline() == "1 finding", summary
    (finding,) = summary.findings
    assert (finding.identity, finding.confirmed, finding.ops) == (f"host_process/{rule}/sched.poll", True, 1)
    assert finding.file is not None
    program = render(read_program(Path(finding.file), catalogue(ABI)))
    assert program == finding.text == text("sched.poll(dom1, ports=[], count=1, timeout=0)")
    assert any("while it ran a program" in notice for notice in summary.notices)


def test_the_command_has_its_status(tmp_path: Path, text: Callable[..., str], deadly: Callable[[str], Path]) -> None:
    seed = tmp_path / "seed.hvp"
    seed.write_text(text(POLL))
    arguments = ("--engine", "random", "--runs", "3", "--seed", "1", "--corpus", seed, "--bug", deadly("os._exit(0)"))
    command = [sys.executable, "-m", "hvfuzz.cli", "fuzz", "--json", "--out", tmp_path / "out", *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT, check=False, timeout=120)
    last = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 1
    assert last["runs"] < 3, "the deadly program is one of the three"
    (finding,) = last["findings"]
    assert finding["identity"] == "host_process/exit:0/sched.poll"
    command = [sys.executable, "-m", "hvfuzz.cli", "repro", "--bug", tmp_path / "deadly.py", finding["file"]]
    shown = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT, check=False, timeout=120)
    assert (shown.returncode, shown.stderr) == (1, "")
    assert "host_process/exit:0/sched.poll at op 0" in shown.stdout


def death(program: str) -> Death:
    """A worker that was killed in `program`."""
    return Death("was killed by SIGKILL", "SIGKILL", program, None, 3, 7, 1.5)


def test_a_program_that_runs_to_its_end_did_not_end_the_worker(tmp_path: Path, text: Callable[..., str]) -> None:
    verdict = judge_deaths([death(text("pause(dom1)"))], None, tmp_path, "x", lambda: True)
    assert verdict.findings == {}
    (notice,) = verdict.notices
    assert "worker 3 was killed by SIGKILL" in notice
    assert text("pause(dom1)") in notice, "it could not be saved, so it is told"


def test_what_was_not_replayed_is_a_finding(tmp_path: Path, text: Callable[..., str]) -> None:
    verdict = judge_deaths([death(text("pause(dom1)"))], None, tmp_path, "x", lambda: False)
    (found,) = verdict.findings.values()
    assert (found.identity, found.text) == ("host_process/SIGKILL/unknown", text("pause(dom1)"))


def test_a_long_program_reaches_the_process_that_replays_it(tmp_path: Path, text: Callable[..., str]) -> None:
    """Linux limits an argument of a process to 128 KiB."""
    verdict = judge_deaths([death(text("pause(dom1)", "# " + "x" * (1 << 18)))], None, tmp_path, "x", lambda: True)
    assert (len(verdict.notices), verdict.findings) == (1, {})


@pytest.mark.parametrize(
    ("end", "identity"),
    [
        ("time.sleep(1000)", "work/hang/sched.poll"),
        ("os.kill(os.getpid(), signal.SIGUSR1)", "host_process/SIGUSR1/sched.poll"),
        ("raise ValueError", "host_memory/exception:ValueError/sched.poll"),
    ],
)
def test_each_program_has_a_process_of_its_own(
    text: Callable[..., str],
    deadly: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    end: str,
    identity: str,
) -> None:
    monkeypatch.setattr("hvfuzz.campaign.forked_target.IDLE_SECONDS", 0.5)
    with ForkedTarget(find_bug(str(deadly(end)))) as target:
        program = parse(text("pause(dom1)", POLL), target.catalogue)
        (finding,) = target.run(program).findings
        assert (finding.identity, finding.op) == (identity, 1)
        assert target.run(parse(text("pause(dom1)"), target.catalogue)).findings == ()


def test_a_host_that_ends_the_process_at_boot(tmp_path: Path, text: Callable[..., str]) -> None:
    path = tmp_path / "boot.py"
    path.write_text(
        DEADLY.format(end="os._exit(7)").replace(
            "hvfuzz.hypervisor.hypercalls.sched:polled_port", "hvfuzz.targets.emulated.booted_system:boot"
        )
    )
    with ForkedTarget(find_bug(str(path))) as target:
        (finding,) = target.run(parse(text("pause(dom1)"), target.catalogue)).findings
    assert finding.identity == "host_process/exit:7/boot"
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
