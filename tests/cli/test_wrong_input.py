"""Wrong input of the rarer kinds: one line that says what and where, status 2, and nothing done in silence."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CRASH = next((ROOT / "crashes").glob("*@xsa-221")) / "program.hvp"
OK = "# hvp 1\nworld pair\n"
Run = Callable[..., Any]


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (("fuzz", "--out", ""), "'--out'"),
        (("repro", ""), "'FILE...'"),
        (("minimise", CRASH, "-o", ""), "'-o' / '--output'"),
        (("corpus", "add", CRASH, "--root", ""), "'--root'"),
    ],
)
def test_an_empty_path_is_not_the_current_folder(run: Run, arguments: tuple[object, ...], place: str) -> None:
    done = run(*arguments)
    assert done.status == 2
    assert f"invalid value for {place}: a path cannot be empty" in done.err


def test_a_word_is_no_whole_number(run: Run) -> None:
    done = run("fuzz", "--runs", "nan")
    assert done.status == 2
    assert "'nan' is not a valid whole number" in done.err


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("None, 'hvfuzz.x:y', print", "TypeError: name is not a string"),
        ("'', 'hvfuzz.x:y', print", "ValueError: name is empty"),
        ("'odd', 7, print", "TypeError: replaces is not a string"),
        ("'odd', 'hvfuzz.x:y', print, trigger=b''", "TypeError: trigger is not a string"),
        ("'odd', 'hvfuzz.x:y', print, findings=['a']", "TypeError: findings is not a tuple of strings"),
        ("'odd', 'hvfuzz.x:y', print, difficulty='x'", "TypeError: difficulty is not a whole number"),
    ],
)
def test_a_bug_with_fields_of_wrong_types_is_told(run: Run, tmp_path: Path, fields: str, message: str) -> None:
    path = tmp_path / "odd.py"
    path.write_text(f"from hvfuzz.bugs import Bug\nBUG = Bug({fields})\n")
    for command in (("bugs", "show", path), ("fuzz", "--bug", path)):
        done = run(*command)
        assert (done.status, done.err) == (2, f"hvfuzz: {path}: {message}\n")


def test_minimise_keeps_the_recorded_finding_or_says_that_it_is_not_there(run: Run, tmp_path: Path) -> None:
    record = json.loads((CRASH.parent / "finding.json").read_text())
    program = tmp_path / "program.hvp"
    program.write_text(CRASH.read_text())
    (tmp_path / "finding.json").write_text(json.dumps({**record, "identity": "stale/tlb/sched.poll"}))
    done = run("minimise", program)
    assert (done.status, done.out) == (2, "")
    assert "does not show 'stale/tlb/sched.poll', that finding.json names; it shows host_memory/null" in done.err
    assert run("minimise", program, "--identity", record["identity"]).status == 0


def test_seeds_added_before_a_wrong_one_are_told(run: Run, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.hvp", tmp_path / "bad.hvp"
    good.write_text(OK)
    bad.write_text("nothing")
    added = tmp_path / "root" / "hypercalls" / "good.hvp"
    done = run("corpus", "add", good, bad, "--root", tmp_path / "root")
    assert (done.status, done.out) == (2, f"{added}\n")
    assert added.exists()
    done = run("corpus", "add", good, bad, "--root", tmp_path / "root", "--json")
    assert (done.status, json.loads(done.out)) == (2, [str(added)])


def test_a_python_without_docstrings_is_told() -> None:
    """They are the text of the contract. A traceback would have status 1, which means a finding."""
    for command in (("-m", "hvfuzz.cli", "repro", CRASH), (ROOT / "harnesses" / "fuzz_dma.py", CRASH)):
        line = [sys.executable, "-OO", *map(str, command)]
        done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("hvfuzz: Python runs with -OO")
        assert done.stderr.count("\n") == 1


def test_a_harness_in_a_deleted_folder_says_so(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    line = f"rmdir {gone}; {sys.executable} {ROOT / 'harnesses' / 'fuzz_dma.py'} -runs=1"
    done = subprocess.run(["bash", "-c", line], cwd=gone, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "hvfuzz: current folder: No such file or directory\n")
