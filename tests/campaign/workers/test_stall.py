"""A process that has stopped making progress is noticed; one that is slow, busy or waits for a processor is not."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import hvfuzz.campaign.workers.stall
from hvfuzz.campaign.workers.pool import Pool
from hvfuzz.campaign.workers.stall import Stall, StallWatch
from hvfuzz.campaign.workers.worker import WorkerJob

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


@contextmanager
def running(code: str) -> Iterator["subprocess.Popen[str]"]:
    """A Python process that runs `code` after it has printed a line."""
    with subprocess.Popen(
        [sys.executable, "-c", f"print(flush=True)\n{code}"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def stall_of(watch: StallWatch, looks: int = 100) -> Stall | None:
    """Look until the process has stalled, at most `looks` times."""
    for _ in range(looks):
        stall = watch.look()
        if stall is not None:
            return stall
        time.sleep(0.05)
    return None


def test_a_sleeping_process_has_stalled() -> None:
    with running("import time; time.sleep(1000)") as process:
        stall = stall_of(StallWatch(process.pid, 0.5))
    assert stall is not None
    assert (stall.why, stall.stopped) == ("did nothing for 0 s", False) or stall.why.startswith("did nothing for 1")


def test_a_stopped_process_says_so() -> None:
    with running("while True: pass") as process:
        process.send_signal(signal.SIGSTOP)
        stall = stall_of(StallWatch(process.pid, 0.5))
    assert stall is not None
    assert stall.stopped
    assert stall.why.startswith("was stopped by a signal for ")


def test_a_busy_process_has_not_stalled_until_it_was_silent_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    with running("while True: pass") as process:
        watch = StallWatch(process.pid, 0.5)
        assert stall_of(watch, 30) is None
        monkeypatch.setattr(hvfuzz.campaign.workers.stall, "BUSY_SECONDS", 0.0)
        stall = watch.look()
        assert stall is not None
        assert "processor time" in stall.why
        watch.progressed()
        monkeypatch.setattr(hvfuzz.campaign.workers.stall, "BUSY_SECONDS", 1000.0)
        assert watch.look() is None


def test_time_in_which_the_observer_was_stopped_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    with running("import time; time.sleep(1000)") as process:
        watch = StallWatch(process.pid, 5.0)
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 3600)
        assert watch.look() is None


def test_progress_begins_the_count_again() -> None:
    with running("import time; time.sleep(1000)") as process:
        watch = StallWatch(process.pid, 0.5)
        for _ in range(20):
            watch.progressed()
            assert watch.look() is None
            time.sleep(0.05)


def test_a_stopped_worker_is_replaced_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hvfuzz.campaign.workers.stall, "IDLE_SECONDS", 1.0)
    job = WorkerJob("hypercalls", "random", 1, None, None, None, "state", str(tmp_path), [])
    pool = Pool(job, 1)
    stopped = False
    for _ in pool.run():
        if not stopped and pool.started:
            (worker,) = pool._workers.values()
            worker.process.send_signal(signal.SIGSTOP)
            stopped, ran = True, pool.progress().runs
        if stopped and pool.notices and pool.progress().runs > ran:
            break
    assert [notice.split(" for ")[0] for notice in pool.notices] == ["worker 0 was stopped by a signal"]
    assert pool.deaths == [], "that was not its program's doing"


SLOW_SEEDS = '''"""A worker that reads its seeds slowly."""
import time
import hvfuzz.campaign.seed_corpus
from hvfuzz.bugs.ipc.xsa_221 import BUG

read = hvfuzz.campaign.seed_corpus.read_seed

def slow(path, catalogue):
    """Read a seed after a while."""
    time.sleep(0.3)
    return read(path, catalogue)

hvfuzz.campaign.seed_corpus.read_seed = slow
'''


def test_reading_seeds_is_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hvfuzz.campaign.workers.stall, "IDLE_SECONDS", 1.5)
    bug = tmp_path / "slow.py"
    bug.write_text(SLOW_SEEDS)
    folder = tmp_path / "seeds"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.hvp").write_text("# hvp 1\nworld pair\npause(dom1)\n")
    job = WorkerJob("hypercalls", "replay", 1, None, None, str(bug), "state", str(tmp_path / "out"), [str(folder)])
    pool = Pool(job, 1)
    for _ in pool.run():
        pass
    assert (pool.notices, pool.progress().runs) == ([], 10)
