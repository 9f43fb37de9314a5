"""The files in harnesses/, run with libFuzzer's command line."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hvfuzz.campaign.program_files import read_program
from hvfuzz.campaign.workers.libfuzzer_flags import REFUSED, SUPPORTED, parse_flags
from hvfuzz.engines.engine import EngineError
from hvfuzz.guest.format.text import render
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI

pytest.importorskip("atheris")

ROOT = Path(__file__).parents[3]
CRASH = next((ROOT / "crashes").glob("*@xsa-221")) / "program.hvp"
PROGRAM = render(read_program(CRASH, catalogue(ABI)))


def command(*arguments: object) -> list[str]:
    """The command line of one harness."""
    return [sys.executable, str(ROOT / "harnesses" / "fuzz_hypercalls.py"), *map(str, arguments)]


def run(out: Path, *arguments: object, bug: str = "") -> "subprocess.CompletedProcess[str]":
    """Run a harness in a separate process, outside the repository."""
    environment = {**os.environ, "HVFUZZ_OUT": str(out)} | ({"HVFUZZ_BUG": bug} if bug else {})
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=out.parent, env=environment, check=False, timeout=600
    )


def test_findings_are_saved_and_end_in_status_1(tmp_path: Path) -> None:
    done = run(tmp_path / "out", "-runs=100", "-seed=1", bug="xsa-221")
    assert done.returncode == 1, done.stderr
    assert "hvfuzz: FINDING host_memory/null/sched.poll: " in done.stderr
    assert "  saved to " in done.stderr
    assert "hvfuzz: ran 100 programs" in done.stderr
    assert list((tmp_path / "out" / "findings").glob("*@xsa-221/program.hvp"))


def test_it_ends_in_time_with_nothing_found(tmp_path: Path) -> None:
    done = run(tmp_path / "out", ROOT / "corpus" / "hypercalls", "-max_total_time=1")
    assert done.returncode == 0, done.stderr
    assert done.stderr.rstrip().splitlines()[-1].startswith("hvfuzz: ")


@pytest.mark.parametrize(("bug", "status"), [("xsa-221", 1), ("", 0)])
def test_files_are_run_once_each(bug: str, status: int, tmp_path: Path) -> None:
    done = run(tmp_path / "out", CRASH, bug=bug)
    assert done.returncode == status, done.stderr
    assert "hvfuzz: ran 1 program, 1 op in " in done.stderr
    assert ("host_memory/null/sched.poll" in done.stderr) == bool(bug)


@pytest.mark.parametrize(
    ("arguments", "bug", "message"),
    [
        (("nowhere",), "", "nowhere: no such file or folder"),
        (("-merge=1", "a", "b"), "", "use: hvfuzz corpus prune"),
        (("-jobs=4",), "", "use: hvfuzz fuzz --workers"),
        ((), "xsa-0", "no bug 'xsa-0'"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], bug: str, message: str, tmp_path: Path) -> None:
    done = run(tmp_path / "out", *arguments, bug=bug)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_output_folder_that_cannot_be_is_one_line() -> None:
    done = run(Path("/proc/nowhere"), "-runs=5")
    assert done.returncode == 2
    assert done.stderr.startswith("hvfuzz: /proc/nowhere")
    assert done.stderr.count("\n") == 1


def test_a_finding_that_cannot_be_saved_is_printed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "findings").write_text("a file where a folder should be")
    done = run(out, CRASH, bug="xsa-221")
    assert done.returncode == 1, done.stderr
    assert "hvfuzz: FINDING host_memory/null/sched.poll: " in done.stderr
    assert "  cannot write " in done.stderr
    assert PROGRAM in done.stderr


BROKEN = '''"""A bug in hvfuzz itself rather than in the hypervisor."""
from hvfuzz.bugs import Bug

def divide(*args):
    """Raise an exception that no guest can cause."""
    raise ZeroDivisionError("oracles divide by zero")

BUG = Bug("broken", "hvfuzz.oracles.framework.suite:OracleSuite.op_finished", divide)
'''


def test_an_internal_error_is_shown_with_its_program(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text(BROKEN)
    done = run(tmp_path / "out", CRASH, bug=str(path))
    assert done.returncode == 70
    assert f"hvfuzz: internal error in this program:\n{PROGRAM}" in done.stderr
    assert "ZeroDivisionError: oracles divide by zero" in done.stderr
    assert "1 internal error" in done.stderr.splitlines()[-1]


def test_ctrl_c_ends_it_in_order(tmp_path: Path) -> None:
    environment = {**os.environ, "HVFUZZ_OUT": str(tmp_path / "out"), "HVFUZZ_BUG": "xsa-221"}
    with subprocess.Popen(command("-seed=1"), stderr=subprocess.PIPE, text=True, env=environment) as process:
        deadline = time.monotonic() + 600
        while not list(tmp_path.glob("out/findings/*/finding.json")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=600)
    assert process.returncode == 130, errors
    assert "programs" in errors.splitlines()[-1]
    assert "Traceback" not in errors


def test_no_runs_run_the_seeds_and_end_in_order(tmp_path: Path) -> None:
    done = run(tmp_path / "out", "-runs=0", CRASH.parent, bug="xsa-221")
    assert done.returncode == 1, done.stderr
    assert "hvfuzz: FINDING host_memory/null/sched.poll: " in done.stderr
    assert done.stderr.splitlines()[-1].startswith("hvfuzz: ran ")


DEADLY = '''"""A host that ends its process."""
import os, signal
from hvfuzz.bugs import Bug

def end(*args):
    """End the process."""
    END

BUG = Bug("deadly", "hvfuzz.hypervisor.hypercalls.sched:Poll.check", end)
'''


@pytest.mark.parametrize(
    ("end", "rule"), [("os._exit(0)", "exit:0"), ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV")]
)
@pytest.mark.parametrize("arguments", [(CRASH,), (CRASH.parent, "-runs=50")])
def test_the_end_of_the_process_is_a_finding(
    end: str, rule: str, arguments: tuple[object, ...], tmp_path: Path
) -> None:
    path = tmp_path / "deadly.py"
    path.write_text(DEADLY.replace("END", end))
    done = run(tmp_path / "out", *arguments, bug=str(path))
    assert done.returncode == 1, done.stderr
    assert f"hvfuzz: FINDING host_process/{rule}/sched.poll: " in done.stderr
    assert done.stderr.splitlines()[-1].startswith("hvfuzz: ended early")


@pytest.mark.parametrize(
    "argument",
    ["-dict=/dev/null", "-artifact_prefix=nosuch/", "-seed=abc", "-nonsense=1", "-stop_file=F", "-dict", "--runs=5"],
)
def test_a_flag_that_does_nothing_is_refused(argument: str, tmp_path: Path) -> None:
    done = run(tmp_path / "out", argument, CRASH)
    assert done.returncode == 2
    assert done.stderr.startswith("hvfuzz: -")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("argument", ["-h", "--help", "-help=1"])
def test_help_is_printed(argument: str, tmp_path: Path) -> None:
    done = run(tmp_path / "out", argument)
    assert (done.returncode, done.stderr) == (0, "")
    assert "-max_total_time" in done.stdout


def test_every_flag_of_libfuzzer_is_supported_or_refused() -> None:
    script = "import atheris, sys; atheris.Setup(['x', '-help=1'], lambda data: None); atheris.Fuzz()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    names = re.findall(r"^ ([a-z0-9_]+) *\t", done.stdout + done.stderr, re.MULTILINE)
    assert len(names) > 70
    assert not set(SUPPORTED) & set(REFUSED)
    assert set(SUPPORTED) | set(REFUSED) == set(names)
    for name in names:
        if name in SUPPORTED:
            parse_flags([f"-{name}=1"])
            with pytest.raises(EngineError, match="expected a number"):
                parse_flags([f"-{name}=abc"])
        else:
            with pytest.raises(EngineError, match=f"-{name} is not supported; ..."):
                parse_flags([f"-{name}=1"])
