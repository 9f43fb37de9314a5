"""Findings are replayed and minimised in separate processes before they are reported, and none is lost."""

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hvfuzz.bugs import find_bug
from hvfuzz.campaign.campaign import Campaign
from hvfuzz.campaign.confirm import ReportedFinding, confirm_all, unconfirmed
from hvfuzz.campaign.findings import PROGRAM, FindingStore, Record, bucket_name, load_record
from hvfuzz.campaign.report import Summary, render_report, write_report
from hvfuzz.campaign.workers.pool import Pool, PoolError
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


def program_in(file: str | None) -> str:
    """The program in a reproducer, without the comments at its head."""
    lines = Path(file or "").read_text().splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("# ") or line.startswith("# hvp"))


def test_a_finding_is_replayed_and_minimised(discovery: Discovery, tmp_path: Path) -> None:
    reported = confirmed(discovery, tmp_path)
    assert (reported.confirmed, reported.ops, reported.runs, reported.seconds) == (True, 1, 7, 1.5)
    assert reported.file is not None
    assert program_in(reported.file) == reported.text
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
    assert program_in(reported.file) == discovery.text


def test_a_stale_reproducer_makes_place(discovery: Discovery, tmp_path: Path) -> None:
    ops = catalogue(ABI)
    stale = parse("# hvp 1\nworld pair\n", ops)
    FindingStore(tmp_path / "findings").save(Record(IDENTITY, "", "xsa-221", 1, 0.1, True, 0), stale)
    reported = confirmed(discovery, tmp_path)
    assert reported.ops == 1
    assert program_in(reported.file) == reported.text


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


def test_a_report_of_a_campaign_that_failed_does_not_call_it_clean() -> None:
    page = render_report(summary(findings=[], error="workers keep dying"))
    assert page.startswith("# hvfuzz dma: failed, no findings\n\n**Error**: workers keep dying\n")
    assert render_report(summary(findings=[], runs=0)).startswith("# hvfuzz dma: no program ran\n")
    assert summary(error="x").as_dict()["error"] == "x"


def test_each_campaign_has_a_report_and_the_latest_is_known(tmp_path: Path) -> None:
    pages = [write_report(tmp_path, "same", summary(seed=number)) for number in range(3)]
    assert [page.name for page in pages] == ["same.md", "same-2.md", "same-3.md"]
    for number, page in enumerate(pages):
        assert json.loads(page.with_suffix(".json").read_text())["seed"] == number
        assert f"| seed | {number} |" in page.read_text()
    assert (tmp_path / "report.md").read_text() == pages[-1].read_text()
    assert json.loads((tmp_path / "report.json").read_text())["seed"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md", "reports"]


def test_a_report_that_cannot_be_written_leaves_nothing_and_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **settings: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "report.json")

    monkeypatch.setattr("hvfuzz.campaign.report.write_atomically", full)
    with StopSignal() as stop:
        campaign = Campaign(job(tmp_path), 1, stop)
        done = campaign.finish(minimise=True)
    assert done.error == "cannot write the report: report.json: No space left on device"
    assert campaign.report is None
    assert list((tmp_path / "reports").iterdir()) == []


def test_a_finding_whose_file_has_gone_is_saved_again(discovery: Discovery, tmp_path: Path) -> None:
    with StopSignal() as stop:
        campaign = Campaign(job(tmp_path, bug="xsa-221"), 1, stop)
        campaign.pool.discoveries[IDENTITY] = discovery._replace(file=str(tmp_path / "gone.hvp"), error=None)
        (finding,) = campaign.finish(minimise=False).findings
    assert finding.file is not None
    assert program_in(finding.file) == discovery.text


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


def test_a_campaign_in_which_no_program_ran_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="no program ran: the workers had none to run"):
        for _ in Pool(job(tmp_path, engine="replay", runs=None), 1).run():
            pass


SLOW = '''"""A worker that takes longer to start than the campaign lasts."""
import time
from hvfuzz.bugs.ipc.xsa_221 import BUG
time.sleep(2)
'''


def test_a_slow_start_takes_nothing_from_the_time(tmp_path: Path) -> None:
    path = tmp_path / "slow.py"
    path.write_text(SLOW)
    pool = Pool(job(tmp_path, bug=str(path), seconds=0.2, runs=None), 1)
    for _ in pool.run():
        pass
    assert pool.progress().runs > 0
    assert pool.notices == []


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
    with StopSignal() as stop:
        campaign = Campaign(job(tmp_path, bug=str(path), runs=40), 1, stop)
        for _ in campaign.fuzz():
            pass
        summary = campaign.finish(minimise=True)
    assert campaign.internal_error_seen
    assert summary.findings == []
    assert summary.runs == 40, "the campaign goes on"
    (aside,) = (tmp_path / "broken").iterdir()
    assert aside.read_text().startswith("# hvp 1")
    assert "1 internal error; please report: ZeroDivisionError: oracles divide by zero" in (summary.error or "")
    assert str(aside) in (summary.error or "")
    assert campaign.report is not None
    assert str(aside) in campaign.report.read_text()


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
