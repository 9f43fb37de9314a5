"""The commands that check hvfuzz itself: doctor and bench speed."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import hvfuzz.campaign.bench.speed
import hvfuzz.cli.bench.bench
import hvfuzz.cli.checks.doctor
from hvfuzz.bugs import known_bugs
from hvfuzz.campaign.workers.worker import WorkerJob
from hvfuzz.engines.engine import Feedback

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter runs."""
    monkeypatch.setattr(hvfuzz.cli.checks.doctor, "CLEAN_RUNS", 100)
    monkeypatch.setattr(hvfuzz.campaign.bench.speed, "BATCH", 12)


def test_doctor_finds_all_well(run: Run) -> None:
    done = run("doctor", "--json")
    document = json.loads(done.out)
    assert [check for check in document["checks"] if not check["good"]] == []
    assert (done.status, document["good"]) == (0, True)
    names = {check["name"] for check in document["checks"]}
    assert names >= {"python", "atheris", "planted bugs", "engine atheris", "engine hypothesis", "engine random"}


def test_the_verdict_on_an_engine_depends_on_programs_and_not_on_time(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine a thousand times slower, the same programs would find the bug."""
    monkeypatch.setattr(hvfuzz.cli.checks.doctor, "PACKAGES", ())
    monkeypatch.setattr(hvfuzz.cli.checks.doctor, "ENGINES", ("random",))
    monkeypatch.setattr(hvfuzz.cli.checks.doctor, "known_bugs", dict)
    jobs = []

    def noted(**fields: Any) -> WorkerJob:
        jobs.append(WorkerJob(**fields))
        return jobs[-1]

    monkeypatch.setattr(hvfuzz.cli.checks.doctor, "WorkerJob", noted)
    assert run("doctor").status == 0
    assert [(job.engine, job.seconds is None, job.runs is not None) for job in jobs] == [("random", True, True)] * 2
    monkeypatch.setattr(hvfuzz.cli.checks.doctor, "ENGINE_RUNS", 2)
    done = run("doctor")
    assert done.status == 1
    assert "BAD engine random      does not find planted bug xsa-221 in 2 programs" in done.out


def test_doctor_says_what_is_ill(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    bug = known_bugs()["xsa-221"]
    deaf = replace(bug, name="deaf", replacement=lambda domain, port: None)
    monkeypatch.setattr(hvfuzz.cli.checks.doctor, "known_bugs", lambda: {"xsa-221": bug, "deaf": deaf})
    monkeypatch.setattr(hvfuzz.cli.checks.doctor, "PACKAGES", ("click", "hvfuzz-is-no-such-package"))
    monkeypatch.setattr(hvfuzz.cli.checks.doctor, "ENGINES", ("steam",))
    done = run("doctor")
    assert done.status == 1
    assert "BAD planted bugs       the oracles find 1 of 2, and nothing without the bug; failed: deaf" in done.out
    assert "ok  click " in done.out
    assert "BAD hvfuzz-is-no-such-package not installed; run `pip install hvfuzz`" in done.out
    assert "BAD engine steam       no engine 'steam'" in done.out


def test_bench_gives_figures_with_their_spread(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("atheris")
    monkeypatch.setattr(
        hvfuzz.cli.bench.bench, "Feedback", [Feedback.STATE]
    )  # instrumenting takes longer than this test

    def counted(**fields: Any) -> WorkerJob:
        return WorkerJob(**{**fields, "seconds": None, "runs": 60})

    monkeypatch.setattr(hvfuzz.cli.bench.bench, "WorkerJob", counted)
    done = run("bench", "speed", "--rounds", 3, "--engine-time", 2, "--json")
    assert done.status == 0, done.err
    document = json.loads(done.out)
    assert [row["name"] for row in document["speed"]][:2] == ["bare emulator", "with oracles"]
    for row in document["speed"]:
        assert 0 < row["slowest"] <= row["ops_per_second"] <= row["fastest"]
    assert [row["memory"] for row in document["reset"]] == [16 << 20, 1 << 30]
    (engine,) = document["engine"]
    assert engine["feedback"] == "state"
    assert 0 < engine["runs"] <= engine["ops"]
    assert engine["seconds"] > 0
    shown = run("bench", "speed", "--rounds", 3, "--engine-time", 3).out
    for words in ("vs bare", "with oracles", "atheris, feedback state", "1024 MiB"):
        assert words in shown
