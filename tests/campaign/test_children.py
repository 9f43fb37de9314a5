"""Child processes in unusual cases: the parent is gone, the child hangs, a second signal arrives."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

import hvfuzz.campaign.confirm
import hvfuzz.campaign.workers.pool
from hvfuzz.campaign.confirm import confirm_all
from hvfuzz.campaign.findings import PROGRAM, bucket_name
from hvfuzz.campaign.program_files import read_program
from hvfuzz.campaign.workers.pool import Pool
from hvfuzz.campaign.workers.stop_signal import SIGNALS, StopSignal
from hvfuzz.campaign.workers.worker import WorkerJob
from hvfuzz.campaign.workers.worker_handle import Discovery
from hvfuzz.guest.format.text import render
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI

IDENTITY = "host_memory/null/sched.poll"
HANGING = '''"""A bug that is found, but whose worker then ignores SIGTERM and hangs between two programs."""
import signal
import time

from hvfuzz.bugs.ipc.xsa_221 import BUG
from hvfuzz.engines.engine import Session

run = Session.run

def run_once(self, program):
    """Run the first program, then hang."""
    run(self, program)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    time.sleep(1000)

Session.run = run_once
'''


@pytest.fixture
def job(tmp_path: Path, text: Callable[..., str]) -> Callable[..., WorkerJob]:
    """job(**changes) is a job of the random engine whose first program shows XSA-221."""
    trigger = tmp_path / "trigger.hvp"
    trigger.write_text(text("sched.poll(dom1, ports=[], count=1, timeout=0)"))
    given = {
        "harness": "hypercalls",
        "engine": "random",
        "seed": 1,
        "seconds": None,
        "runs": None,
        "bug": "xsa-221",
        "feedback": "state",
        "out": str(tmp_path / "out"),
        "seeds": [str(trigger)],
    }
    return lambda **changes: WorkerJob(**(given | changes))  # type: ignore[arg-type]


@contextmanager
def running(*arguments: str, output: int = subprocess.PIPE) -> "Iterator[subprocess.Popen[str]]":
    """A Python process that is killed at the end of the test."""
    with subprocess.Popen([sys.executable, *arguments], stdout=output, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def worker(job: WorkerJob, parent: int) -> tuple[str, ...]:
    """The command line of a worker whose parent is process `parent`."""
    return ("-m", "hvfuzz.campaign.workers.worker", json.dumps(job._asdict()), str(parent))


def test_a_worker_whose_parent_has_gone_does_not_begin(job: Callable[..., WorkerJob]) -> None:
    with running(*worker(job(runs=5), parent=1 << 22)) as process:
        output, errors = process.communicate(timeout=120)
        assert (process.returncode, output, errors) == (2, "", "")


def test_a_worker_that_nobody_hears_ends(job: Callable[..., WorkerJob]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with running(*worker(job(seconds=1000.0), os.getpid()), output=writer) as process:
        os.close(writer)
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (2, "")


@pytest.fixture
def hanging(tmp_path: Path) -> str:
    """A bug whose worker has to be killed."""
    path = tmp_path / "hanging.py"
    path.write_text(HANGING)
    return str(path)


def living(out: str) -> list[str]:
    """The command lines of the processes of the campaign in `out`."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            lines.append(path.read_bytes().decode(errors="replace"))
    return [line for line in lines if "hvfuzz.campaign" in line and out in line]


def test_a_worker_that_hangs_is_stopped_and_keeps_its_findings(
    job: Callable[..., WorkerJob], hanging: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hvfuzz.campaign.workers.pool, "GRACE_SECONDS", 0.2)
    pool = Pool(job(seconds=0.2, bug=hanging), 1)
    for _ in pool.run():
        pass
    assert pool.notices == [
        "a worker had run no program when the time was over",  # it never came to tell of its run
        "worker 0 did not end in time and was killed",
    ]
    assert list(pool.discoveries) == [IDENTITY]
    assert living(job().out) == []


def test_a_worker_that_does_not_hear_is_killed(
    job: Callable[..., WorkerJob], hanging: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hvfuzz.campaign.workers.pool, "END_SECONDS", 0.3)
    pool = Pool(job(bug=hanging), 1)
    with closing(pool.run()) as run:
        for _ in run:
            if pool.discoveries:
                assert len(living(job().out)) == 1
                break
    assert living(job().out) == []
    assert pool.progress().runs == 0, "it never came to tell of its runs"


def discovery(text: str) -> Discovery:
    """A finding that the worker could not save."""
    return Discovery(IDENTITY, "a message", None, text, 7, 1.5, "no space")


def test_confirming_is_given_up_in_order(job: Callable[..., WorkerJob], text: Callable[..., str]) -> None:
    """A signal during minimisation: the result so far is reported, and no process is left."""
    out = Path(job().out)
    busy = text(*["cpuid(dom1, leaf=11)"] * 200, "sched.poll(dom1, ports=[5, 6], count=1, timeout=0)")
    asked = []

    def proceed() -> bool:
        asked.append(living(str(out)))
        return not asked[-1]

    (reported,) = confirm_all([discovery(busy)], "xsa-221", out, 1, proceed)
    assert len(asked) > 1
    assert reported.identity == IDENTITY
    assert living(str(out)) == []


DEAF = """import pathlib, signal, time
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
pathlib.Path(__file__).with_suffix(".begun").touch()
time.sleep(1000)
"""


@pytest.mark.parametrize("patient", [False, True], ids=["out of time", "stopped"])
def test_a_confirmation_that_hangs_is_given_up(
    job: Callable[..., WorkerJob],
    text: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    patient: bool,
) -> None:
    monkeypatch.setattr(hvfuzz.campaign.confirm, "END_SECONDS", 0.3)
    if not patient:
        monkeypatch.setattr(hvfuzz.campaign.confirm, "SECONDS_EACH", 0.0)
        monkeypatch.setattr(hvfuzz.campaign.confirm, "GRACE_SECONDS", 1.0)
    bug = tmp_path / "deaf.py"
    bug.write_text(DEAF)
    begun = bug.with_suffix(".begun")
    out = Path(job().out)
    found = discovery(text("sched.poll(dom1, ports=[], count=1, timeout=0)"))
    (reported,) = confirm_all([found], str(bug), out, 1, lambda: not (patient and begun.exists()))
    assert begun.exists() or not patient
    assert (reported.identity, reported.text, reported.confirmed) == (IDENTITY, found.text, None)
    assert living(str(out)) == []


def test_a_confirmation_that_cannot_begin_leaves_the_finding_as_it_was(
    job: Callable[..., WorkerJob], text: Callable[..., str]
) -> None:
    found = discovery(text("sched.poll(dom1, ports=[], count=1, timeout=0)"))
    (reported,) = confirm_all([found], "xsa-0", Path(job().out), 1, lambda: True)
    assert (reported.identity, reported.text, reported.confirmed) == (IDENTITY, found.text, None)


def test_a_damaged_reproducer_makes_place(job: Callable[..., WorkerJob], text: Callable[..., str]) -> None:
    out = Path(job().out)
    kept = out / "findings" / bucket_name(IDENTITY, "xsa-221") / PROGRAM
    kept.parent.mkdir(parents=True)
    kept.write_text("no program")
    shortest = text("sched.poll(dom1, ports=[], count=1, timeout=0)")
    (reported,) = confirm_all([discovery(shortest)._replace(file=str(kept))], "xsa-221", out, 1, lambda: True)
    assert (reported.file, reported.confirmed) == (str(kept), True)
    assert render(read_program(kept, catalogue(ABI))) == shortest


# Signals.


@pytest.fixture
def heard_by_children() -> Iterator[None]:
    """Under nohup SIGHUP is ignored, and children inherit that."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


STOPPING = """\
import time
from hvfuzz.campaign.workers import stop_signal
from hvfuzz.campaign.workers.stop_signal import StopSignal
with StopSignal() as stop:
    print("ready", flush=True)
    while not stop.requested():
        time.sleep(0.01)
    print("stopping", flush=True)
    time.sleep(0.3)
    stop_signal.PATIENCE_SECONDS = 0.0
    print("patient", flush=True)
    time.sleep(1000)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_later_signal_ends_at_once(number: signal.Signals, heard_by_children: None) -> None:
    """One that hangs while it stops; the first two signals are one request, as of `timeout` and of impatient people."""
    with running("-c", STOPPING) as process:
        assert process.stdout is not None
        for line in ("ready\n", "stopping\n"):
            assert process.stdout.readline() == line
            process.send_signal(number)
        assert process.stdout.readline() == "patient\n"
        process.send_signal(number)
        assert process.wait(timeout=600) == -number


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_what_was_before_comes_back(number: signal.Signals) -> None:
    heard: list[int] = []
    before = signal.signal(number, lambda number, frame: heard.append(number))
    try:
        with StopSignal() as stop:
            assert not stop.requested()
            assert stop.status == 0
            signal.raise_signal(number)
            assert stop.requested()
            assert (stop.signal, stop.status) == (number, 128 + number)
        assert heard == []
        signal.raise_signal(number)
        assert heard == [number]
    finally:
        signal.signal(number, before)


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.requested()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
