"""Every command in README.md, and every example of --help, runs as it is printed in a fresh clone.

Of the examples that run campaigns and that README.md lacks, only the words are checked: they take minutes.

Only amounts of work are changed: see `SHORTER` and `BOUNDED`. `make test` is left out: it runs this test. What the
README gives as a form, with words such as FILE, runs with the files of `FORMS`.
"""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import hvfuzz.cli

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CRASH = "crashes/host_memory--null--sched.poll@xsa-221/program.hvp"
SHORTER = {"--sample": 2, "--ops": 2000, "--programs": 20, "--cases": 20, "--trials": 1, "--rounds": 3}
"""Option -> the value that it gets if it has a greater one."""
BOUNDED = {
    "hvfuzz fuzz": "--runs 60",
    "hvfuzz minimise": "--time 2",
    "hvfuzz bench bugs": "--trials 1 --time 20",
    "hvfuzz bench clean": "--ops 2000",
    "hvfuzz bench traces": "--programs 20",
    "hvfuzz bench speed": "--rounds 3 --engine-time 0",
    "hvfuzz reference": "--cases 20",
    "python harnesses/": "-runs=60",
}
"""Command -> options added at its end, unless it has them. Bounds are amounts where there is one: on a busy machine, a
campaign of two seconds may end before it has begun."""
FORMS = {
    "FILE": CRASH,
    "FOLDER": "out/corpus/hypercalls",
    "NAME...": "xsa-221",
    "NAME": "xsa-221",
    "ADDRESS": "DIRECT",
    "N": "0",
    "OTHER_PYTHON": ".venv/bin/python",
    "my_bug.py": "hvfuzz/bugs/ipc/xsa_224.py",
    "stage1\\|ept\\|ring\\|vtd": "stage1",
}


def commands(path: str, command: click.Command) -> Iterator[click.Command]:
    """The command and all below it."""
    yield command
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from commands(f"{path} {name}", each)


def help_examples() -> Iterator[str]:
    texts = [hvfuzz.cli.EXAMPLES.splitlines()[1:]]
    for name, module in hvfuzz.cli.COMMANDS.items():
        command = importlib.import_module(f"hvfuzz.cli.{module}").command
        texts += [list(getattr(each, "examples", ())) for each in commands(name, command)]
    for line in (line for lines in texts for line in lines):
        yield re.split(r"\s{2,}", line)[0]


def readme_blocks() -> Iterator[str]:
    """Lines of the code blocks that are commands."""
    for line in re.findall(r"^    ((?:make|\.venv/bin/hvfuzz|hvfuzz|\. ) ?[^\n]*)$", README, re.MULTILINE):
        command = re.split(r"\s+#", line)[0]
        if command != "make test" and not re.search(r"  hvfuzz repro example", line):
            yield command


def readme_forms() -> Iterator[str]:
    for text in re.findall(r"`((?:hvfuzz|\.venv/bin/python) [^`]+)`", README):
        words = [word for word in text.split(" ") if not word.startswith("[")]
        words = [FORMS.get(word, word) for word in words]
        if words != ["hvfuzz", "COMMAND"]:
            yield " ".join(words)


LONG = ("hvfuzz bench", "hvfuzz corpus", "hvfuzz doctor", "hvfuzz fuzz")
ELSEWHERE = ("hvfuzz bench speed", "hvfuzz doctor")
"""These take long, and have no smaller amount of work: `tests/cli/checks/test_doctor.py` runs them."""
README_LINES = [line for line in dict.fromkeys([*readme_blocks(), *readme_forms()]) if line not in ELSEWHERE]
PRINTED = list(dict.fromkeys([*README_LINES, *(line for line in help_examples() if not line.startswith(LONG))]))
PARSED = [line for line in dict.fromkeys(help_examples()) if line.startswith(LONG) and line not in README_LINES]


def shortened(line: str) -> str:
    """The same command with less work."""
    whole, redirection, rest = re.fullmatch(r"([^>|]*?)( *[>|]|$)(.*)", line).groups()  # type: ignore[union-attr]
    if re.match(r"hvfuzz bench bugs( --|$)", whole):
        whole = whole.replace("bugs", "bugs xsa-221", 1)  # instead of all
    words = whole.split(" ")
    for at, word in enumerate(words[:-1]):
        if word in SHORTER:
            words[at + 1] = str(min(int(words[at + 1]), SHORTER[word]))
    for command, options in BOUNDED.items():
        if whole.removeprefix(".venv/bin/").startswith(command):
            for option in re.findall(r"-\S+(?: \d+)?", options):
                if option.split(" ")[0] not in words:
                    words.append(option)
    return " ".join(words) + redirection + rest


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone after `make`, with .venv on the PATH as the README says, and after a first campaign."""
    clone = tmp_path_factory.mktemp("clone")
    for path in ROOT.iterdir():
        if path.name in ("README.md", "ABI.md", "Makefile", "pyproject.toml"):
            shutil.copy(path, clone)
        elif path.name in ("hvfuzz", "corpus", "crashes", "harnesses"):
            shutil.copytree(path, clone / path.name, ignore=shutil.ignore_patterns("__pycache__"))
    programs = clone / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (programs / "hvfuzz").write_text(f"#!{sys.executable}\nfrom hvfuzz.cli import main\n\nmain()\n")
    (programs / "activate").write_text(f'PATH="{programs}:$PATH"\n')
    for name in ("python", "hvfuzz"):
        (programs / name).chmod(0o755)
    version = "{}.{}".format(*sys.version_info)
    (clone / ".venv" / ".installed").write_text(f"{clone} {version} ok\n")
    assert shell(clone, "hvfuzz fuzz --runs 60 --seed 1").returncode == 0
    return clone


def shell(clone: Path, line: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "VENV", "MAKEFLAGS")}
    path = f"{clone / '.venv' / 'bin'}:{environment['PATH']}"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=clone,
        env={**environment, "PATH": path, "PYTHONPATH": str(clone), "TIME": "20", "HVFUZZ_REFERENCES": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_commands_are_found() -> None:
    assert len([*PRINTED, *PARSED]) > 50
    assert {"make fuzz", "hvfuzz cost FILE".replace("FILE", CRASH)} <= set(PRINTED)
    assert any(line.startswith(".venv/bin/hvfuzz fuzz --bug") for line in PRINTED)
    assert any("harnesses/" in line for line in PRINTED)


def test_only_the_amount_of_work_changes() -> None:
    assert shortened("hvfuzz fuzz dma --time 600 --workers 2") == "hvfuzz fuzz dma --time 600 --workers 2 --runs 60"
    assert shortened("hvfuzz fuzz --runs 500 --json > x") == "hvfuzz fuzz --runs 500 --json > x"
    assert shortened("hvfuzz bench bugs xsa-78 --trials 5") == "hvfuzz bench bugs xsa-78 --trials 1 --time 20"
    assert shortened("hvfuzz abi | head -40") == "hvfuzz abi | head -40"


@pytest.mark.parametrize("line", PARSED)
def test_an_example_is_a_command_line(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("corpus", "crashes", "hvfuzz"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "out" / "corpus" / "hypercalls").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    name, *words = shlex.split(re.split(" [|>]", line)[0])[1:]
    command = importlib.import_module(f"hvfuzz.cli.{hvfuzz.cli.COMMANDS[name]}").command
    while isinstance(command, click.Group):
        name, *words = words
        command = command.commands[name]
    command.make_context(name, words)  # raises UsageError


@pytest.mark.parametrize("line", PRINTED)
def test_a_printed_command_runs(clone: Path, line: str) -> None:
    for unit in sorted((clone / "out" / "corpus" / "hypercalls").iterdir())[20:]:
        unit.unlink()  # of campaigns before; to prune them all takes a minute
    done = shell(clone, shortened(line))
    if "reference" in line and done.returncode == 2:
        pytest.skip(done.stderr)
    clean_end = (0, 1, 141) if "| head" in line else (0, 1)
    assert done.returncode in clean_end, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    if done.returncode == 1:  # a finding, or an address that is not mapped, but no failure
        assert re.search("finding|fault|#PF|=", done.stdout + done.stderr), done.stdout + done.stderr
    assert not re.search("^BAD ", done.stdout, re.MULTILINE)
