"""Every command that runs a program comes back from one that hangs the host."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hvfuzz.campaign import forked_target
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

Run = Callable[..., Any]
PROGRAM = "# hvp 1\nworld pair\nr0 = event.alloc(dom1, remote=dom2)\nsched.poll(dom1, ports=[r0], count=1, timeout=0)\n"
BUG = """\
from hvfuzz.bugs import Bug

def hang(*arguments):
    while True:
        arguments = arguments

BUG = Bug("hanging", "{where}", hang, findings=({finding!r},), trigger={program!r})
"""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of processor time: far above what a boot takes."""
    monkeypatch.setitem(EmulatedTarget.__init__.__kwdefaults__, "hang_seconds", 0.7)
    monkeypatch.setattr(forked_target, "OP_SECONDS", 3.0)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.hvp"
    path.write_text(PROGRAM)
    return path


def planted(folder: Path, where: str, finding: str) -> Path:
    path = folder / "hanging.py"
    path.write_text(BUG.format(where=where, finding=finding, program=PROGRAM))
    return path


@pytest.mark.parametrize(
    ("where", "finding"),
    [
        ("hvfuzz.hypervisor.hypercalls.sched:polled_port", "work/hang/sched.poll"),
        ("hvfuzz.hypervisor.core.boot:plant_canaries", "work/hang/boot"),
    ],
)
def test_a_hang_is_a_finding_of_each_command(run: Run, tmp_path: Path, program: Path, where: str, finding: str) -> None:
    bug = planted(tmp_path, where, finding)
    done = run("repro", program, "--bug", bug)
    assert (done.status, finding in done.out) == (1, True)
    done = run("bugs", "verify", bug)
    assert (done.status, finding in done.out) == (0, True)
    done = run("cost", program, "--bug", bug)
    assert (done.status, "stopped early" in done.out) == (1, True)
    done = run("minimise", program, "--bug", bug, "--output", tmp_path / "small.hvp")
    assert done.status == 0
    assert finding in done.out + done.err


def test_walk_comes_back_from_a_hang(run: Run, tmp_path: Path, program: Path) -> None:
    bug = planted(tmp_path, "hvfuzz.hypervisor.hypercalls.sched:polled_port", "work/hang/sched.poll")
    assert run("walk", program, "--bug", bug, "--op", 1, "--gva", "DIRECT+0x10000").status == 0


@pytest.mark.parametrize(
    "loop",
    [
        "while True:\n        try:\n            sum(range(1000))\n        except BaseException:\n            pass",
        "__import__('collections').deque(__import__('itertools').count(), maxlen=0)",
    ],
    ids=["catches everything", "one call of C code"],
)
def test_a_hang_that_nothing_interrupts_is_a_finding(run: Run, tmp_path: Path, program: Path, loop: str) -> None:
    bug = tmp_path / "hanging.py"
    bug.write_text(
        f"from hvfuzz.bugs import Bug\n\ndef hang(*arguments):\n    {loop}\n\n"
        'BUG = Bug("hanging", "hvfuzz.hypervisor.hypercalls.sched:polled_port", hang)\n'
    )
    done = run("repro", program, "--bug", bug)
    assert (done.status, "work/hang/sched.poll at op 1" in done.out) == (1, True)
