"""Programs that end the process that runs them: every command says so, and none ends without a word."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUG = """\
import ctypes, os, signal, time
from hvfuzz.bugs import Bug

def polled_port(*arguments):
    {end}

BUG = Bug(
    "deadly",
    "hvfuzz.hypervisor.hypercalls.sched:polled_port",
    polled_port,
    findings=({identity!r},),
    trigger={program!r},
)
"""
PROGRAM = """\
# hvp 1
world pair
sched.yield(dom1)
sched.poll(dom1, ports=[5], count=1, timeout=0)
"""
ENDS = (
    ("os._exit(0)", "host_process/exit:0"),
    ("os._exit(3)", "host_process/exit:3"),
    ("os.kill(os.getpid(), signal.SIGKILL)", "host_process/SIGKILL"),
    ("return [bytearray(1 << 28) for _ in range(64)]", "host_memory/exception:MemoryError"),
    ("raise SystemExit(0)", "host_memory/exception:SystemExit"),
    ("raise KeyboardInterrupt", "host_memory/exception:KeyboardInterrupt"),
    ("raise BaseException('no error')", "host_memory/exception:BaseException"),
)


def hvfuzz(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run a command in a separate process."""
    command = [sys.executable, "-m", "hvfuzz.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=600)


def write(folder: Path, end: str, rule: str) -> tuple[Path, Path]:
    """Write a bug whose sched.poll does `end`, and a program that calls it, without a finding.json."""
    bug, program = folder / "deadly.py", folder / "program.hvp"
    bug.write_text(BUG.format(end=end, identity=f"{rule}/sched.poll", program=PROGRAM))
    program.write_text(PROGRAM)
    return bug, program


@pytest.mark.parametrize(("end", "rule"), ENDS)
def test_repro_reports_it(tmp_path: Path, end: str, rule: str) -> None:
    bug, program = write(tmp_path, end, rule)
    done = hvfuzz("repro", program, "--bug", bug)
    assert (done.returncode, done.stderr) == (1, "")
    assert f"{rule}/sched.poll at op 1\n" in done.stdout


def test_the_other_commands_survive_it(tmp_path: Path) -> None:
    bug, program = write(tmp_path, *ENDS[0])
    done = hvfuzz("minimise", program, "--bug", bug)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "host_process/exit:0/sched.poll: reduced from 2 ops to 1\n"
    assert "sched.poll(" in done.stdout
    done = hvfuzz("bugs", "verify", bug)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "1 of 1 verified"), done.stdout
    done = hvfuzz("cost", program, "--bug", bug)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"hvfuzz: {program}: the process of the host exited with status 0 (hvfuzz repro reports it as a finding)\n"
    )
    assert hvfuzz("walk", program, "--bug", bug, "--op", 1, "--gva", 0).returncode in (0, 1), "it ends before the op"
