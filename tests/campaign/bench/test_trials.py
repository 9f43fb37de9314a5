"""Trials: which findings count, what is measured, and that no process or folder is left."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from hvfuzz.bugs import find_bug
from hvfuzz.campaign.bench.trials import CleanRun, Spread, Trial, Trials, spread
from hvfuzz.campaign.workers.pool import Pool, PoolError
from hvfuzz.campaign.workers.worker import WorkerJob

EASY = "pkvm-09cce60bddd"
JOB = WorkerJob("hypercalls", "random", 3, 30.0, None, None, "state", "", [])


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which trials create theirs."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def promises(bug: str, findings: Iterable[str], path: Path) -> str:
    """A bug file with the replacement of `bug` and other expected findings."""
    path.write_text(
        "from dataclasses import replace\nfrom hvfuzz.bugs import find_bug\n"
        f"BUG = replace(find_bug({bug!r}), name='other', findings={tuple(findings)!r})\n"
    )
    return str(path)


def measure(bug: str, count: int, parallel: int = 1, job: WorkerJob = JOB) -> list[Trial]:
    """The trials of one bug, by seed."""
    trials = Trials({bug: find_bug(bug)}, job, count, parallel)
    for _ in trials.run():
        assert len(trials.running) <= parallel
    assert trials.running == []
    return sorted(trials.done, key=lambda trial: trial.seed)


@pytest.mark.parametrize(
    ("found", "trials", "expected"),
    [
        ([], 3, None),
        ([7], 1, Spread(7, 7, 7)),
        ([9, 2, 4], 3, Spread(4, 2, 9)),
        ([9, 2, 4], 4, Spread(6.5, 2, 9)),
        ([9, 2, 4], 5, Spread(9, 2, 9)),
        ([9, 2, 4], 6, Spread(None, 2, 9)),
        ([2, 4], 9, Spread(None, 2, 4)),
    ],
)
def test_a_trial_without_success_counts_as_longer_than_all(
    found: list[float], trials: int, expected: Spread | None
) -> None:
    assert spread(found, trials) == expected


def test_trials_have_seeds_of_their_own_and_leave_nothing(scratch: Path) -> None:
    trials = measure(EASY, 3)
    assert [trial.seed for trial in trials] == [3, 4, 5]
    assert {trial.found for trial in trials} <= set(find_bug(EASY).findings)
    assert len({trial.runs for trial in trials}) > 1
    assert all(0 < trial.seconds < 30 for trial in trials)
    assert list(scratch.iterdir()) == []


def test_side_by_side_they_give_the_same(scratch: Path) -> None:
    assert [trial.runs for trial in measure(EASY, 2, 2)] == [trial.runs for trial in measure(EASY, 2)]


def test_it_is_what_a_campaign_finds(scratch: Path) -> None:
    (trial,) = measure(EASY, 1)
    pool = Pool(JOB._replace(bug=EASY, out=str(scratch), seconds=None, runs=trial.runs), 1)
    for _ in pool.run():
        pass
    assert trial.found is not None
    assert pool.discoveries[trial.found].runs == trial.runs == pool.progress().runs


def test_a_finding_of_another_identity_does_not_count(scratch: Path) -> None:
    bug = promises(EASY, ["work/steps/memory.populate"], scratch / "other.py")
    (trial,) = measure(bug, 1, job=JOB._replace(seconds=5.0))
    assert trial.found is None
    assert trial.bug == "other"
    assert set(trial.others) & set(find_bug(EASY).findings)
    assert trial.seconds >= 5


def test_a_trial_that_is_not_over_does_not_count(scratch: Path) -> None:
    trials = Trials({"xsa-222": find_bug("xsa-222")}, JOB, 4, 2)
    run = trials.run()
    for _ in range(5):
        next(run)
    assert trials.running == ["xsa-222", "xsa-222"]
    assert len(list(scratch.iterdir())) == 2
    run.close()
    assert trials.done == []
    assert trials.running == []
    assert list(scratch.iterdir()) == []


def test_what_an_error_points_to_stays(scratch: Path) -> None:
    bug = scratch / "none.py"
    trials = Trials({str(bug): find_bug(EASY)}, JOB, 1, 1)
    with pytest.raises(PoolError, match=r"none\.py: no such file"):
        list(trials.run())
    assert list(scratch.glob("hvfuzz-bench-*/logs/*.log"))


def test_a_clean_run_ends_with_its_ops(scratch: Path) -> None:
    run = CleanRun(JOB._replace(seconds=None), 1000, 2)
    for _ in run.run():
        assert run.now.ops < 1000
    assert run.now.ops >= 1000
    assert run.now.runs > 20
    assert run.now.findings == ()
    assert list(scratch.iterdir()) == []


def test_what_a_clean_run_finds_is_kept(scratch: Path) -> None:
    run = CleanRun(JOB._replace(seconds=None, bug=EASY), 1500, 1)
    for _ in run.run():
        pass
    assert run.now.ops >= 1500, "it goes on after a finding"
    assert run.now.findings
    for finding in run.now.findings:
        assert finding.file is not None
        assert Path(finding.file).is_file()


def test_a_program_that_ends_its_worker_is_a_finding_of_a_clean_run(scratch: Path) -> None:
    seed = scratch / "seed.hvp"
    seed.write_text("# hvp 1\nworld pair\nsched.poll(dom1, ports=[5], count=1, timeout=0)\n")
    bug = scratch / "deadly.py"
    bug.write_text(
        "import os\nfrom hvfuzz.bugs import Bug\n"
        "def polled_port(*arguments):\n    os._exit(0)\n"
        "BUG = Bug('deadly', 'hvfuzz.hypervisor.hypercalls.sched:polled_port', polled_port)\n"
    )
    run = CleanRun(JOB._replace(seconds=None, bug=str(bug), seeds=[str(seed)]), 100, 1)
    for _ in run.run():
        pass
    found = [finding.identity for finding in run.now.findings]
    assert found[0] == "host_process/exit:0/sched.poll"
    assert all(identity.startswith("host_process/exit:0/") for identity in found), "raw calls reach it, too"
