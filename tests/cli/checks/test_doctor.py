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
from hvfuzz.engines.engine import Feedback

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter runs."""
    monkeypatch.setattr(hvfuzz.cli.checks.doctor, "CLEAN_SECONDS", 2.0)
    monkeypatch.setattr(hvfuzz.campaign.bench.speed, "BATCH", 12)


def test_doctor_finds_all_well(run: Run) -> None:
    done = run("doctor", "--json")
    document = json.loads(done.out)
    assert [check for check in document["checks"] if not check["good"]] == []
    assert (done.status, document["good"]) == (0, True)
    names = {check["name"] for check in document["checks"]}
    assert names >= {"python", "atheris", "planted bugs", "engine atheris", "engine hypothesis", "engine random"}


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
    assert 0 < engine["seconds"] < 60
    shown = run("bench", "speed", "--rounds", 3, "--engine-time", 0.1).out
    for words in ("vs bare", "with oracles", "atheris, feedback state", "1024 MiB"):
        assert words in shown
