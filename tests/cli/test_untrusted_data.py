"""Data never runs code: each place that could run some is listed here, with the test that shows that it does not.

Three kinds of places are derived from the source: those that run or import code, those that start a process, and those
that read a file. A new one fails a test until it is added, with the name of a test or the reason why none is needed.
"""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hvfuzz.bugs import BugError, find_bug, known_bugs, recorded_bug
from hvfuzz.campaign.findings import PROGRAM, RECORD
from hvfuzz.campaign.workers.child_process import python_command, python_environment

ROOT = Path(__file__).parents[2]
TRIGGER = find_bug("xsa-221").trigger
HOSTILE = "import pathlib\npathlib.Path({mark!r}).touch()\n"

RUN_CODE = (
    "CDLL",
    "__import__",
    "compile",
    "eval",
    "exec",
    "exec_module",
    "import_module",
    "load_module",
    "run_module",
    "run_path",
    "spec_from_file_location",
)
DESERIALISERS = ("pickle", "marshal", "shelve", "yaml", "dill", "joblib", "jsonpickle", "configparser", "tomllib")
STARTERS = ("multiprocessing", "pty", "asyncio", "concurrent")
START = ("Popen", "call", "check_call", "check_output", "fork", "forkpty", "getoutput", "popen", "run", "system")

RUNS_CODE = {
    ("hvfuzz/bugs/__init__.py", "import_module"): "test_a_recorded_name_is_that_of_a_planted_bug",
    ("hvfuzz/bugs/__init__.py", "spec_from_file_location"): "test_a_recorded_path_is_not_run",
    ("hvfuzz/bugs/__init__.py", "exec_module"): "test_a_recorded_path_is_not_run",
    ("hvfuzz/bugs/bug.py", "import_module"): "the module that a bug names; the bug is code already",
    ("hvfuzz/campaign/bench/mutants/planting.py", "compile"): "the package's own source, with an edit made from it",
    ("hvfuzz/campaign/bench/mutants/planting.py", "import_module"): "a module of the package that is to be edited",
    ("hvfuzz/campaign/workers/child_process.py", "CDLL"): "this process",
    ("hvfuzz/campaign/workers/child_process.py", "run_module"): "test_no_process_imports_from_the_current_folder",
    ("hvfuzz/cli/__init__.py", "import_module"): "a value of COMMANDS",
    ("hvfuzz/engines/all_engines.py", "import_module"): "a member of ENGINES",
    ("hvfuzz/engines/atheris.py", "import_module"): "modules of the package hvfuzz.hypervisor",
    ("hvfuzz/machine/snapshot.py", "compile"): "generated from the names of slots",
    ("hvfuzz/machine/snapshot.py", "exec"): "generated from the names of slots",
    ("hvfuzz/oracles/framework/listeners.py", "compile"): "generated from the names of events",
    ("hvfuzz/oracles/framework/listeners.py", "exec"): "generated from the names of events",
    ("hvfuzz/references/all_references.py", "import_module"): "a value of REFERENCES",
    ("hvfuzz/references/stage1/unicorn.py", "import_module"): "a constant",
}
STARTS = {
    ("hvfuzz/campaign/bench/trace_equality.py", "Popen"): "test_no_process_imports_from_the_current_folder",
    ("hvfuzz/campaign/bench/mutants/judge_process.py", "fork"): "the same program goes on; nothing is executed",
    ("hvfuzz/campaign/forked_target.py", "fork"): "the same program goes on; nothing is imported or executed",
    ("hvfuzz/campaign/workers/child_process.py", "Popen"): "test_no_process_imports_from_the_current_folder",
    ("hvfuzz/campaign/workers/harness_main.py", "fork"): "the same program goes on; nothing is imported or executed",
    (
        "hvfuzz/references/bochs/emulator.py",
        "Popen",
    ): "found on PATH; runs in a new folder, with a configuration of its own",
    ("hvfuzz/references/bochs/emulator.py", "run"): "found on PATH; nasm on a file of the package, and bochs --help",
    ("hvfuzz/references/vtd/qemu.py", "Popen"): "found on PATH; with -nodefaults and -no-user-config",
    ("hvfuzz/references/vtd/qemu.py", "run"): "found on PATH; qemu --version",
}
READS = {
    ("hvfuzz/campaign/bench/mutants/judge_process.py", "loads"): "the result of our own process",
    ("hvfuzz/campaign/bench/mutants/judge_process.py", "open"): "a pipe to our own process; the kernel's figures",
    ("hvfuzz/campaign/bench/mutants/module_source.py", "read_bytes"): "the package's own source",
    ("hvfuzz/campaign/bench/mutants/reach.py", "loads"): "numbers of lines, if its digest is that of the package",
    ("hvfuzz/campaign/bench/mutants/reach.py", "read_bytes"): "numbers of lines; files of which a digest is made",
    ("hvfuzz/campaign/bench/mutants/results_file.py", "loads"): "verdicts: no edit is taken from the file",
    ("hvfuzz/campaign/bench/mutants/results_file.py", "open"): "appended to; its last byte is read",
    ("hvfuzz/campaign/bench/mutants/results_file.py", "read_bytes"): "verdicts: no edit is taken from the file",
    ("hvfuzz/campaign/bench/mutants/survivors.py", "read_text"): "verdicts, and diffs that are compared",
    ("hvfuzz/campaign/confirm.py", "loads"): "events of our own process",
    ("hvfuzz/explain/telling/program_header.py", "open"): "test_a_bug_in_the_head_of_a_program_is_only_a_name",
    ("hvfuzz/explain/telling/program_header.py", "read_bytes"): "the package's own source, of which a digest is made",
    ("hvfuzz/campaign/deaths.py", "loads"): "events of our own process",
    ("hvfuzz/campaign/findings.py", "loads"): "test_a_recorded_path_is_not_run",
    ("hvfuzz/campaign/findings.py", "open"): "a lock; nothing is read",
    ("hvfuzz/campaign/forked_target.py", "loads"): "the result of our own process",
    ("hvfuzz/campaign/forked_target.py", "open"): "a pipe to our own process; nothing is read",
    ("hvfuzz/campaign/program_files.py", "open"): "test_a_program_that_is_python_is_not_run",
    ("hvfuzz/campaign/report.py", "open"): "reserves a name; nothing is read",
    ("hvfuzz/campaign/report.py", "read_bytes"): "a report that was just written, copied",
    ("hvfuzz/campaign/seed_corpus.py", "read_bytes"): "test_a_program_that_is_python_is_not_run",
    ("hvfuzz/campaign/workers/child_process.py", "loads"): "a job of our own process",
    ("hvfuzz/campaign/visible_text.py", "open"): "/dev/null; nothing is read",
    ("hvfuzz/campaign/workers/child_process.py", "open"): "a log; nothing is read",
    ("hvfuzz/campaign/workers/pool.py", "loads"): "events of our own process",
    ("hvfuzz/campaign/workers/stall.py", "read_bytes"): "the kernel's figures of a process: numbers and a letter",
    ("hvfuzz/cli/__init__.py", "open"): "/dev/null; nothing is read",
    ("hvfuzz/cli/abi.py", "read_bytes"): "compared as bytes",
    ("hvfuzz/cli/fuzz.py", "open"): "/dev/null; nothing is read",
    ("hvfuzz/engines/atheris.py", "open"): "a folder; nothing is read",
    ("hvfuzz/engines/atomic_file.py", "open"): "written; nothing is read",
    ("hvfuzz/references/bochs/emulator.py", "open"): "the disk image that Bochs wrote: numbers at fixed places",
    ("hvfuzz/references/bochs/emulator.py", "read_bytes"): "what nasm wrote: the image that Bochs runs",
    ("hvfuzz/references/bochs/emulator.py", "read_text"): "the log of Bochs: its last line is shown",
}


@cache
def calls() -> tuple[tuple[str, str, ast.Call], ...]:
    """(file, name of the function, call) of every call in the package and the harnesses."""
    return tuple(_calls())


def _calls() -> Iterator[tuple[str, str, ast.Call]]:
    for path in sorted([*(ROOT / "hvfuzz").rglob("*.py"), *(ROOT / "harnesses").rglob("*.py")]):
        trees = [ast.parse(path.read_text())]
        # A program in a string, such as the argument of `python -c`, is a program too.
        for node in ast.walk(trees[0]):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("import "):
                trees.append(ast.parse(node.value))
        for node in (node for tree in trees for node in ast.walk(tree)):
            if isinstance(node, ast.Call):
                function = node.func
                name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
                yield str(path.relative_to(ROOT)), name, node


def owner_of(call: ast.Call) -> str:
    """The module in ``module.function(...)``."""
    return getattr(getattr(call.func, "value", None), "id", "")


def is_start(name: str, call: ast.Call) -> bool:
    if owner_of(call) == "os" and name.startswith(("exec", "spawn", "posix_spawn")):
        return True
    return name == "Popen" or (name in START and owner_of(call) in ("os", "pty", "subprocess"))


def is_reader(name: str, call: ast.Call) -> bool:
    return name in ("open", "read_bytes", "read_text") or owner_of(call) == "json"


def runs_code(name: str, call: ast.Call) -> bool:
    return name in RUN_CODE and owner_of(call) != "re"


def test_every_place_that_runs_code_is_known() -> None:
    assert {(path, name) for path, name, call in calls() if runs_code(name, call)} == set(RUNS_CODE)


def test_every_start_of_a_process_is_known() -> None:
    assert {(path, name) for path, name, call in calls() if is_start(name, call)} == set(STARTS)


def test_every_reader_of_files_is_known() -> None:
    found = {(path, name) for path, name, call in calls() if is_reader(name, call) and name != "dumps"}
    assert found == set(READS)


def test_nothing_imports_a_reader_that_runs_code() -> None:
    """Nor the functions of `os` and `subprocess` by their bare names, which would hide them from the tests above."""
    known = {"hvfuzz/references/bochs/emulator.py": {"pty"}}
    for path in sorted((ROOT / "hvfuzz").rglob("*.py")):
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
                assert node.module not in ("os", "subprocess"), path
        where = str(path.relative_to(ROOT))
        unknown = names & {*DESERIALISERS, *STARTERS} - known.get(where, set())
        assert not unknown, f"{where} imports {unknown}"


def test_every_named_test_is_there() -> None:
    named = {value for table in (RUNS_CODE, STARTS, READS) for value in table.values() if value.startswith("test_")}
    assert named <= set(globals())


@pytest.mark.parametrize("path", sorted({path for path, how in STARTS if how == "Popen" and "references" not in path}))
def test_a_python_process_is_started_by_the_one_function(path: str) -> None:
    """`sys.executable` stands in one place only: the default of `python_command`."""
    text = (ROOT / path).read_text()
    assert "python_command(" in text
    users = [each for each in (ROOT / "hvfuzz").rglob("*.py") if "sys.executable" in each.read_text()]
    assert {user.name for user in users} == {"child_process.py", "screen.py", "traces.py"}  # the others print it


def crash_folder(folder: Path, bug: str) -> Path:
    """A crash folder whose record names `bug`; returns its program."""
    record = {"identity": "host_memory/null/sched.poll", "message": "", "bug": bug}
    record |= {"runs": 1, "seconds": 1.0, "confirmed": True, "ops": 1}  # type: ignore[dict-item]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).write_text(json.dumps(record))
    program = folder / PROGRAM
    program.write_text(TRIGGER)
    return program


def hvfuzz(folder: Path, *arguments: object, timeout: float = 100) -> "subprocess.CompletedProcess[str]":
    """Run the command in `folder`, as from a shell."""
    command = [sys.executable, "-P", "-c", "from hvfuzz.cli import main; main()", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.mark.parametrize("name", ["e.py", "./e.py", "xsa-0"])
def test_a_bug_in_the_head_of_a_program_is_only_a_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "e.py").write_text("import pathlib\npathlib.Path('ran').touch()\n")
    program = tmp_path / "program.hvp"
    program.write_text(f"# hvp 1\n# bug: {name}\nworld pair\ncpuid(dom1, leaf=0)\n")
    done = hvfuzz(tmp_path, "repro", program)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("repro",),
        ("walk", "--op", "0", "--gva", "0x400000"),
        ("cost",),
        ("minimise", "--time", "1"),
        ("show",),
    ],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize("name", ["e.py", "{folder}/e.py", "./e.py"])
def test_a_recorded_path_is_not_run(
    command: tuple[str, ...], name: str, run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "ran"
    (tmp_path / "e.py").write_text(HOSTILE.format(mark=str(mark)))
    program = crash_folder(tmp_path / "crash", name.format(folder=tmp_path))
    done = run(command[0], program, *command[1:])
    assert not mark.exists()
    if command[0] != "show":
        assert done.status == 2, done.err
        assert done.err.count("\n") == 1
        assert "is not the name of a planted bug; if you trust that file, name it with --bug" in done.err


def test_a_path_on_the_command_line_is_run(tmp_path: Path) -> None:
    (tmp_path / "e.py").write_text("from hvfuzz.bugs import find_bug\nBUG = find_bug('xsa-221')\n")
    program = crash_folder(tmp_path / "crash", "e.py")
    done = hvfuzz(tmp_path, "repro", program, "--bug", "e.py")
    assert done.returncode == 1, done.stderr
    assert "host_memory/null/sched.poll" in done.stdout


@pytest.mark.parametrize(
    "name", ["e.py", "os", "hvfuzz.bugs.memory.xsa_212", "", "none", "x" * 100_000, "../e.py", "\0"]
)
def test_a_recorded_name_is_that_of_a_planted_bug(name: str) -> None:
    with pytest.raises(BugError) as error:
        recorded_bug(name, Path("finding.json"))
    assert len(str(error.value)) < 250
    assert "\n" not in str(error.value)


def test_every_planted_bug_can_be_recorded() -> None:
    assert all(recorded_bug(name, Path(RECORD)) is not None for name in known_bugs())


def test_a_program_that_is_python_is_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    hostile = HOSTILE.format(mark=str(mark))
    path = tmp_path / "program.py"
    path.write_text(hostile)
    for command in (["repro", path], ["show", path], ["corpus", "add", path, "--harness", "dma"]):
        assert hvfuzz(tmp_path, *command).returncode == 2
    done = hvfuzz(tmp_path, "fuzz", "--engine", "replay", "--corpus", path, "--runs", "1")
    assert done.returncode in (0, 2), done.stderr
    assert not mark.exists()


NAMES = ("atheris", "random", "hypothesis", "json", "click", "signal", "runpy", "sitecustomize", "usercustomize")


def hostile_folder(folder: Path) -> Path:
    """A folder with modules of well-known names; returns the file that appears if one is imported."""
    mark = folder / "ran"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(HOSTILE.format(mark=str(mark)))
    (folder / "hvfuzz").mkdir()
    (folder / "hvfuzz" / "__init__.py").write_text(HOSTILE.format(mark=str(mark)))
    return mark


@pytest.mark.parametrize("engine", ["atheris", "random", "hypothesis", "replay"])
def test_a_campaign_imports_nothing_from_the_current_folder(engine: str, tmp_path: Path) -> None:
    if engine == "atheris":
        pytest.importorskip("atheris")
    mark = hostile_folder(tmp_path / "trap")
    (tmp_path / "seed.hvp").write_text(TRIGGER)
    done = hvfuzz(
        tmp_path / "trap",
        *("fuzz", "--engine", engine, "--runs", 3, "--bug", "xsa-221", "--corpus", tmp_path / "seed.hvp"),
        *("--out", tmp_path / "out"),
    )
    assert not mark.exists()
    assert done.returncode == 1, done.stderr


@pytest.mark.parametrize("path", [None, "", os.pathsep, os.pathsep + str(ROOT)])
def test_no_process_imports_from_the_current_folder(path: str | None, tmp_path: Path) -> None:
    mark = hostile_folder(tmp_path / "trap")
    environment = python_environment()
    environment.pop("PYTHONPATH", None)
    if path is not None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", path)
            environment = python_environment()
    # trace_equality with no programs is the shortest program of the package.
    command = python_command("hvfuzz.campaign.bench.trace_equality", "0", "1")
    done = subprocess.run(command, cwd=tmp_path / "trap", env=environment, capture_output=True, text=True, check=False)
    assert not mark.exists()
    assert done.returncode == 0, done.stderr


def test_a_checkout_on_pythonpath_is_what_its_processes_run(tmp_path: Path) -> None:
    """The children import the same hvfuzz as their parent, also if another one is installed."""
    program = "import hvfuzz, sys; print(hvfuzz.__file__, sys.argv[1:])"
    module = tmp_path / "told.py"
    module.write_text(program)
    environment = python_environment() | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        python_command("told", "a", "b c"), env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"{ROOT / 'hvfuzz' / '__init__.py'} ['a', 'b c']"


def test_the_printed_command_names_a_bug_of_ones_own_again(tmp_path: Path) -> None:
    """The record alone must not choose the file to run, so without it the command would be refused."""
    bug = tmp_path / "my bug.py"
    bug.write_text(
        "from dataclasses import replace\nfrom hvfuzz.bugs import find_bug\n"
        "BUG = replace(find_bug('xsa-221'), name='own')\n"
    )
    seed = tmp_path / "seed.hvp"
    seed.write_text(find_bug("xsa-221").trigger)
    arguments = ("fuzz", "--engine", "replay", "--corpus", seed, "--bug", bug, "--out", tmp_path / "out")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "hvfuzz.cli", *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 1, done.stderr
    report = (tmp_path / "out" / "report.md").read_text()
    printed = [line.strip() for line in done.stdout.splitlines() if " repro " in line]
    assert printed
    assert "--bug" in report
    shown = subprocess.run(
        ["bash", "-c", printed[0]], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert (shown.returncode, shown.stderr) == (1, "")
    assert "with bug own" in shown.stdout
