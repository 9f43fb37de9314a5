"""Signals, twice each, in every phase of a campaign: a report, all findings, no process left."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

import hvfuzz.campaign.campaign
from hvfuzz.campaign.campaign import Campaign
from hvfuzz.campaign.workers.stop_signal import SIGNALS, StopSignal
from hvfuzz.campaign.workers.worker import WorkerJob

ROOT = Path(__file__).parents[2]
USUAL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RARE = tuple((number, "fuzzing") for number in SIGNALS if number not in USUAL)
EASY = "pkvm-09cce60bddd"


def campaign_processes(out: Path) -> list[str]:
    """The command lines of the children of the campaign in `out`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            line = path.read_bytes().decode(errors="replace")
            if "hvfuzz.campaign" in line and str(out) in line:
                found.append(line)
    return found


def wait_for_process(out: Path, words: str) -> None:
    """Wait until a process of the campaign runs whose command line has `words`."""
    for _ in range(600):
        if any(words in line for line in campaign_processes(out)):
            return
        time.sleep(0.05)
    pytest.fail(f"no {words}")


@pytest.mark.parametrize(
    ("number", "phase"),
    [*((number, phase) for phase in ("starting", "fuzzing", "confirming") for number in USUAL), *RARE],
)
def test_a_report_is_written_whatever_signal_comes_when(tmp_path: Path, number: signal.Signals, phase: str) -> None:
    """`timeout` sends its signal twice at once, to the process and to its group."""
    out = tmp_path / "out"
    limit = ("--runs", "60") if phase == "confirming" else ("--time", "100")
    command = ["fuzz", "--engine", "random", "--bug", EASY, "--seed", "1", "--out", str(out), *limit]
    with subprocess.Popen(
        [sys.executable, "-m", "hvfuzz.cli", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        # Under nohup, or in the background of a shell, these would be ignored.
        preexec_fn=lambda: [signal.signal(each, signal.SIG_DFL) for each in SIGNALS] and None,  # noqa: PLW1509
    ) as process:
        assert process.stdout is not None
        if phase == "starting":
            wait_for_process(out, "hvfuzz.campaign.workers.worker")
        elif phase == "fuzzing":
            while "FINDING" not in process.stdout.readline():
                assert process.poll() is None
        else:
            wait_for_process(out, "hvfuzz.campaign.confirm")
        process.send_signal(number)
        process.send_signal(number)
        output, errors = process.communicate(timeout=600)
    assert (process.returncode, errors) == (128 + number, "")
    report = json.loads((out / "report.json").read_text())
    assert (out / "report.md").is_file()
    if phase == "starting":
        assert "no program ran" in output
        assert (out / "report.md").read_text().startswith("# hvfuzz hypercalls: no program ran\n")
    else:
        assert report["findings"]
        assert all(Path(finding["file"]).is_file() for finding in report["findings"])
    assert campaign_processes(out) == []


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_while_the_report_is_written_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    write = hvfuzz.campaign.campaign.write_report

    def interrupted(*arguments: object) -> Path:
        for _ in range(2):
            os.kill(os.getpid(), number)
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(hvfuzz.campaign.campaign, "write_report", interrupted)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with StopSignal() as stop:
            campaign = Campaign(WorkerJob("dma", "random", 1, None, 1, None, "state", str(tmp_path), []), 1, stop)
            campaign.finish(minimise=True)
            assert stop.status == 128 + number
    finally:
        signal.signal(signal.SIGHUP, before)
    assert campaign.report is not None
    assert campaign.report.read_text().startswith("# hvfuzz dma: no program ran")
    assert (tmp_path / "report.json").is_file()
