"""Findings are replayed and minimised in separate processes before they are reported, and none is lost."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hvfuzz.bugs import find_bug
from hvfuzz.campaign.campaign import Campaign
from hvfuzz.campaign.confirm import ReportedFinding, confirm_all, unconfirmed
from hvfuzz.campaign.findings import PROGRAM, FindingStore, Record, bucket_name, load_record
from hvfuzz.campaign.report import Summary, render_report, write_report
from hvfuzz.campaign.workers.pool import Pool, PoolError, WorkerInternalError
from hvfuzz.campaign.workers.stop_signal import StopSignal
from hvfuzz.campaign.workers.worker import WorkerJob
from hvfuzz.campaign.workers.worker_handle import Discovery
from hvfuzz.guest.format.text import parse
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI

IDENTITY = "host_memory/null/sched.poll"


@pytest.fixture
def discovery(text: Callable[..., str]) -> Discovery:
    """A finding of XSA-221 that the worker could not save."""
    program = text("pause(dom1)", "sched.poll(dom1, ports=[5, 6], count=1, timeout=0)", "pause(dom2)")
    return Discovery(IDENTITY, "a message", None, program, 7, 1.5, "cannot write: No space left on device")


def confirmed(discovery: Discovery, out: Path, bug: str | None = "xsa-221", *, proceed: bool = True) -> ReportedFinding:
    """Confirm one discovery."""
    (reported,) = confirm_all([discovery], bug, out, 1, lambda: proceed)
    return reported


def test_a_finding_is_replayed_and_minimised(discovery: Discovery, tmp_path: Path) -> None:
    reported = confirmed(discovery, tmp_path)
    assert (reported.confirmed, reported.ops, reported.runs, reported.seconds) == (True, 1, 7, 1.5)
    assert reported.file is not None
    assert Path(reported.file).read_text() == reported.text
    record = load_record(Path(reported.file).parent)
    assert (record.confirmed, record.bug, record.ops) == (True, "xsa-221", 1)


def test_what_is_not_seen_again_says_so(discovery: Discovery, tmp_path: Path) -> None:
    reported = confirmed(discovery, tmp_path, bug=None)
    assert reported.confirmed is False
    assert reported.ops == 3


def test_when_told_to_stop_the_finding_is_kept_as_it_was(discovery: Discovery, tmp_path: Path) -> None:
    reported = confirmed(discovery, tmp_path, proceed=False)
    assert (reported.confirmed, reported.ops) == (None, 3)
    assert reported.file is not None, "saved by the parent, as the worker could not"
    assert Path(reported.file).read_text() == discovery.text


def test_a_stale_reproducer_makes_place(discovery: Discovery, tmp_path: Path) -> None:
    ops = catalogue(ABI)
    stale = parse("# hvp 1\nworld pair\n", ops)
    FindingStore(tmp_path / "findings").save(Record(IDENTITY, "", "xsa-221", 1, 0.1, True, 0), stale)
    reported = confirmed(discovery, tmp_path)
    assert reported.ops == 1
    assert Path(reported.file or "").read_text() == reported.text


def test_a_disk_that_refuses_loses_nothing(discovery: Discovery, tmp_path: Path) -> None:
    (tmp_path / "findings").write_text("a file where a folder should be")
    (tmp_path / "logs").mkdir()
    reported = confirmed(discovery, tmp_path)
    assert reported.file is None
    assert reported.confirmed
    assert reported.text.splitlines()[2:] == ["sched.poll(dom1, ports=[], count=1, timeout=0)"]


def test_unconfirmed_findings_count_their_ops(discovery: Discovery, tmp_path: Path) -> None:
    text = discovery.text.replace("sched", "race 0: pause(dom2)\nsched")
    assert unconfirmed(discovery._replace(text=text), None, tmp_path).ops == 3


def summary(**changes: object) -> Summary:
    """The summary of a campaign with one finding."""
    reported = ReportedFinding(IDENTITY, "a `message`", None, "# hvp 1\nworld pair\n", 7, 1.5, 0, None)
    given = {
        "harness": "dma",
        "engine": "random",
        "feedback": "state",
        "bug": None,
        "seed": 1,
        "workers": 2,
        "runs": 100,
        "ops": 1000,
        "seconds": 0.0,
        "features": 5,
        "corpus": 6,
        "notices": ["worker 0 was killed by SIGKILL and was replaced"],
        "findings": [reported],
    }
    return Summary(**{**given, **changes})  # type: ignore[arg-type]


def test_a_report_has_the_program_even_if_it_could_not_be_saved(tmp_path: Path) -> None:
    page = write_report(tmp_path, "a", summary()).read_text()
    assert page.startswith("# hvfuzz dma: 1 finding\n")
    for part in (IDENTITY, "world pair", "could not be saved", "SIGKILL"):
        assert part in page
    assert (tmp_path / "report.json").is_file()


def test_a_report_without_findings() -> None:
    assert render_report(summary(findings=[], notices=[])).startswith("# hvfuzz dma: no findings\n")


def job(out: Path, **changes: object) -> WorkerJob:
    """A short job for one worker."""
    given = {
        "harness": "hypercalls",
        "engine": "random",
        "seed": 1,
        "seconds": None,
        "runs": 20,
        "bug": None,
        "feedback": "state",
        "out": str(out),
        "seeds": [],
    }
    return WorkerJob(**{**given, **changes})  # type: ignore[arg-type]


def test_runs_are_shared_out_exactly(tmp_path: Path) -> None:
    pool = Pool(job(tmp_path, runs=21), 2)
    for _ in pool.run():
        pass
    assert pool.progress().runs == 21
    assert not pool.notices


def test_a_worker_that_cannot_begin_says_why(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="no bug 'xsa-0'"):
        for _ in Pool(job(tmp_path, bug="xsa-0"), 1).run():
            pass


BROKEN = '''"""A bug in hvfuzz itself rather than in the hypervisor."""
from hvfuzz.bugs import Bug

def capture(*args):
    """Raise an exception outside host context."""
    raise ZeroDivisionError("oracles divide by zero")

BUG = Bug("broken", "hvfuzz.oracles.framework.suite:OracleSuite.op_finished", capture)
'''


def test_an_internal_error_is_not_a_finding_and_keeps_its_program(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text(BROKEN)
    with pytest.raises(WorkerInternalError, match="ZeroDivisionError: oracles divide by zero"):
        for _ in Pool(job(tmp_path, bug=str(path)), 1).run():
            pass
    with StopSignal() as stop:
        campaign = Campaign(job(tmp_path, bug=str(path)), 1, stop)
        for _ in campaign.fuzz():
            pass
        assert campaign.internal_error_seen
        assert "internal error; please report it" in (campaign.error or "")
        assert (tmp_path / "broken.hvp").read_text().startswith("# hvp 1")
        assert campaign.finish(minimise=True).findings == []


def test_workers_that_keep_dying_are_given_up(tmp_path: Path) -> None:
    path = tmp_path / "deadly.py"
    path.write_text('import os\nos.kill(os.getpid(), 9)\n"""Kills whoever loads it."""\n')
    pool = Pool(job(tmp_path, bug=str(path)), 1)
    with pytest.raises(PoolError, match="workers keep dying: worker 0 was killed by SIGKILL"):
        for _ in pool.run():
            pass
    assert len(pool.notices) == 2


def test_a_finding_of_a_killed_worker_is_not_lost(tmp_path: Path) -> None:
    trigger = tmp_path / "trigger.hvp"
    trigger.write_text(find_bug("xsa-221").trigger)
    pool = Pool(job(tmp_path, bug="xsa-221", seeds=[str(trigger)], runs=1), 1)
    for _ in pool.run():
        pass
    assert list(pool.discoveries) == [IDENTITY]
    assert (tmp_path / "findings" / bucket_name(IDENTITY, "xsa-221") / PROGRAM).is_file()
