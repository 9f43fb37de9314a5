"""Output on a terminal, and the absence of escape codes elsewhere."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from hvfuzz.campaign.campaign import Campaign
from hvfuzz.campaign.program_files import read_program
from hvfuzz.campaign.workers.stop_signal import StopSignal
from hvfuzz.campaign.workers.worker import WorkerJob
from hvfuzz.campaign.workers.worker_handle import Discovery
from hvfuzz.cli.live_view import View, format_count, format_duration
from hvfuzz.engines.engine import Progress
from hvfuzz.guest.format.text import render
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI

ROOT = Path(__file__).parents[2]
CRASH = next((ROOT / "crashes").glob("*@xsa-224")) / "program.hvp"
ESCAPE = "\x1b["


class Terminal:
    """A command that runs on a pseudo-terminal."""

    def __init__(self, *arguments: object) -> None:
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
        for name in ("CI", "NO_COLOR", "FORCE_COLOR"):
            environment.pop(name, None)
        self.pid, self.handle = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.execve(sys.executable, [sys.executable, "-m", "hvfuzz.cli", *map(str, arguments)], environment)
        self.seen = ""

    def read(self, seconds: float = 0.1) -> bool:
        """Read the output available; False at its end."""
        if select.select([self.handle], [], [], seconds)[0]:
            try:
                data = os.read(self.handle, 1 << 16)
            except OSError:
                return False
            self.seen += data.decode(errors="replace")
            return bool(data)
        return True

    def wait_for(self, words: str) -> None:
        """Wait until `words` appear in the output."""
        while words not in self.seen:
            assert self.read(), self.seen

    def status(self) -> int:
        """Wait for the end; returns the exit status."""
        while self.read():
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    """terminal("fuzz", ...) runs a command on a pseudo-terminal."""
    made: list[Terminal] = []

    def run(*arguments: object) -> Terminal:
        made.append(Terminal(*arguments))
        return made[-1]

    yield run
    for each in made:
        os.close(each.handle)


def test_colours_are_for_terminals_only(terminal: Callable[..., Terminal]) -> None:
    shown = terminal("repro", CRASH)
    assert shown.status() == 1
    assert ESCAPE in shown.seen
    done = subprocess.run(
        [sys.executable, "-m", "hvfuzz.cli", "repro", str(CRASH), "--trace"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert ESCAPE not in done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines())) > 100, "lines are not cut or folded"


def test_a_campaign_on_a_terminal_is_drawn_in_place(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    arguments = ("--engine", "random", "--bug", "xsa-100", "--time", "9999", "--seed", "1", "--out", tmp_path)
    shown = terminal("fuzz", *arguments)
    shown.wait_for("secrets/canary")
    os.write(shown.handle, b"\x03")  # Ctrl-C
    assert shown.status() == 130
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\^C", "", shown.seen)
    assert "╭─ hvfuzz hypercalls, engine random, seed 1, bug xsa-100" in text
    assert "report    " in text, "the summary comes after the signal"
    assert "Traceback" not in text
    drawn = [line for line in text.replace("\r", "\n").splitlines() if line.startswith(("╭", "│", "╰"))]
    assert {len(line) for line in drawn} == {80}


def test_ctrl_c_twice_leaves_a_usable_terminal(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    shown = terminal("fuzz", "--engine", "random", "--time", "60", "--out", tmp_path, "--seed", "1")
    shown.wait_for("programs/s")
    os.write(shown.handle, b"\x03")
    shown.read()
    os.write(shown.handle, b"\x03")
    assert shown.status() == 130
    assert shown.seen.rindex(f"{ESCAPE}?25h") > shown.seen.rindex(f"{ESCAPE}?25l"), "the cursor is shown again"
    assert (tmp_path / "report.md").is_file()


def test_ctrl_c_ends_minimising_with_what_there_is(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    lines = render(read_program(CRASH, catalogue(ABI))).splitlines()
    long = tmp_path / "long.hvp"
    long.write_text("\n".join([*lines[:2], *["cpuid(dom1, leaf=11)"] * 200, *lines[2:]]) + "\n")
    shown = terminal("minimise", long, "--bug", "xsa-224", "-o", tmp_path / "small.hvp", "--time", "9999")
    shown.wait_for("ops after")
    os.kill(shown.pid, signal.SIGINT)
    assert shown.status() in (0, 130)
    assert (tmp_path / "small.hvp").read_text().startswith("# hvp 1")
    assert "Traceback" not in shown.seen


def test_ctrl_c_ends_a_benchmark_with_what_is_measured(terminal: Callable[..., Terminal]) -> None:
    arguments = ("--trials", "3", "--time", "9999", "--engine", "random")
    shown = terminal("bench", "bugs", "pkvm-09cce60bddd", "xsa-222", *arguments)
    shown.wait_for("xsa-222: 3 of 6 trials, 3 found")
    os.write(shown.handle, b"\x03")
    assert shown.status() == 130
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.seen)
    assert re.search(r"pkvm-09cce60bddd +2 +3 of 3 +\d", text)
    assert re.search(r"xsa-222 +4 +0 of 0 +-", text)
    assert "Traceback" not in text


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    """A campaign that has not started."""
    job = WorkerJob("dma", "atheris", 1, 3600.0, None, None, "state", str(tmp_path), [])
    return Campaign(job, 2, StopSignal())


def drawn(campaign: Campaign, width: int) -> list[str]:
    """The lines of the view."""
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(View(campaign, "a title [with brackets]"))
    return capture.get().splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_the_view_keeps_its_width_whatever_it_shows(
    width: int, campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = set()
    for figures in (
        Progress(0, 0, 0.0, 0, 0, 0.0),
        Progress(99_999_999, 10**10, 40_000.0, 16_384, 99_999, 39_999.0),
    ):
        monkeypatch.setattr(campaign.pool, "progress", lambda figures=figures: figures)
        lines = drawn(campaign, width)
        assert {len(line) for line in lines} == {width}
        shapes.add(len(lines))
        whole = " ".join(lines)
        for word in ("programs", "ops/s", "features", "corpus", "time", "findings"):
            assert word in whole
    assert len(shapes) == 1
    assert "[with brackets]" in drawn(campaign, 80)[0]


def test_the_view_shows_the_latest_findings(campaign: Campaign) -> None:
    for number in range(12):
        identity = f"oracle/rule/call{number}" + "x" * 90 * (number == 11)
        campaign.pool.discoveries[identity] = Discovery(identity, "", None, "", number, 61.0, None)
    lines = "\n".join(drawn(campaign, 80))
    assert "call11x" in lines
    assert "call3" not in lines
    assert "and 4 earlier" in lines
    assert "1:01" in lines
    assert {len(line) for line in lines.splitlines()} == {80}


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0"), (999, "999"), (9_999, "9999"), (12_345, "12.3k"), (5_600_000, "5.6M"), (7e9, "7G")]
)
def test_counts(number: float, words: str) -> None:
    assert format_count(number) == words


@pytest.mark.parametrize(("seconds", "words"), [(0.9, "0:00"), (61, "1:01"), (3600 * 25 + 5, "25:00:05")])
def test_clocks(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words
