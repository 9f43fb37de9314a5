"""Paths of any bytes work in every command, and the commands that are printed run in a shell as they are printed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hvfuzz.campaign.program_files import read_program
from hvfuzz.guest.format.text import render
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI

ROOT = Path(__file__).parents[2]
CRASH = next((ROOT / "crashes").glob("*@xsa-221")) / "program.hvp"
PROGRAM = render(read_program(CRASH, catalogue(ABI)))
NAMES = ["a b", "it's", "ü", "\udcff\udc80", "-o", "a\nb", "\x1b[31m", "a,b", ":bug:", "[red]", "$HOME"]
LOCALES = [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]


def hvfuzz(
    cwd: Path, *arguments: object, environment: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[bytes]":
    """Run a command in `cwd`."""
    return subprocess.run(
        [sys.executable, "-m", "hvfuzz.cli", *(os.fsencode(str(word)) for word in arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        capture_output=True,
        check=False,
    )


def shell(line: str, cwd: Path) -> "subprocess.CompletedProcess[bytes]":
    """Run a line that was printed."""
    return subprocess.run(
        ["bash", "-c", line], cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False
    )


@pytest.mark.parametrize(
    ("name", "locale"),
    [*((name, LOCALES[0]) for name in NAMES), *((name, LOCALES[1]) for name in ("ü", "\udcff\udc80", "a\nb"))],
)
def test_a_printed_command_runs_as_it_is(tmp_path: Path, name: str, locale: dict[str, str]) -> None:
    seeds = tmp_path / f"seeds{name}"
    seeds.mkdir()
    (seeds / f"{name}.hvp").write_text(PROGRAM)
    arguments = ("--engine", "replay", f"--corpus={seeds}", "--bug", "xsa-221", f"--out={name}", "--no-minimise")
    done = hvfuzz(tmp_path, "fuzz", *arguments, environment=locale)
    assert done.returncode == 1, done.stderr
    (line,) = (line for line in done.stdout.decode().splitlines() if " repro " in line)
    again = shell(line, tmp_path)
    assert again.returncode == 1, (line, again.stderr)
    assert b"host_memory/null/sched.poll" in again.stdout
    report = (tmp_path / name / "report.md").read_text()
    (line,) = (line.split("`")[1] for line in report.splitlines() if line.startswith("Reproduce"))
    again = shell(line.replace("hvfuzz", f"{sys.executable} -m hvfuzz.cli", 1), tmp_path)
    assert again.returncode == 1, (line, again.stderr)


@pytest.mark.parametrize("locale", LOCALES, ids=["UTF-8", "C"])
@pytest.mark.parametrize("name", ["ü b", "\udcff\udc80"])
def test_each_command_takes_paths_of_any_bytes(tmp_path: Path, name: str, locale: dict[str, str]) -> None:
    folder = tmp_path / name
    folder.mkdir()
    file = folder / f"{name}.hvp"
    file.write_text(PROGRAM)
    small, svg, abi = (folder / f"{name}.{each}" for each in ("small", "svg", "md"))

    def run(*arguments: object) -> "subprocess.CompletedProcess[bytes]":
        done = hvfuzz(tmp_path, *arguments, environment=locale)
        assert b"internal error" not in done.stderr
        return done

    done = run("repro", file, "--bug", "xsa-221", "--json")
    assert done.returncode == 1
    assert os.fsencode(json.loads(done.stdout)["file"]) == os.fsencode(file)
    assert run("minimise", file, "--bug", "xsa-221", "-o", small).returncode == 0
    assert small.read_text() == PROGRAM
    assert run("show", file).stdout == PROGRAM.encode()
    assert run("cost", file).returncode == 0
    assert run("walk", file, "--op", "0", "--gva", "DIRECT", "--svg", svg).returncode == 0
    assert svg.read_text().startswith("<svg")
    assert run("abi", "--write", abi).returncode == 0
    assert run("abi", "--check", abi).returncode == 0
    abi.write_text("old")
    stale = run("abi", "--check", abi)
    assert stale.returncode == 1
    assert shell(stale.stderr.decode().split("update it with: ")[1], tmp_path).returncode == 0
    assert run("abi", "--check", abi).returncode == 0
    added = run("corpus", "add", file, "--root", folder / "seeds", "--json")
    assert os.fsencode(json.loads(added.stdout)[0]) == os.fsencode(folder / "seeds" / "hypercalls" / file.name)
    assert run("corpus", "stats", "--root", folder / "seeds").returncode == 0
    assert run("corpus", "prune", folder / "seeds" / "hypercalls").returncode == 0
    assert run("repro", folder / "nowhere").returncode == 2
    (folder / "finding.json").write_text("{")
    assert run("repro", file).returncode == 2


@pytest.mark.parametrize("engine", ["atheris", "hypothesis", "random"])
def test_each_engine_takes_an_output_folder_of_any_bytes(tmp_path: Path, engine: str) -> None:
    pytest.importorskip(engine)
    out = tmp_path / "\udcff,\udc80 b"
    done = hvfuzz(tmp_path, "fuzz", "--engine", engine, "--runs", 40, "--seed", 1, "--no-corpus", "--out", out)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert b"no findings in 40 programs" in done.stdout
    assert (out / "report.json").is_file()
    if engine == "atheris":
        assert any((out / "corpus" / "hypercalls").iterdir())


def test_empty_paths_and_folders_that_are_gone_are_one_line(tmp_path: Path) -> None:
    for arguments in (
        ("minimise", CRASH, "-o", ""),
        ("minimise", CRASH, "-o", "/"),
        ("abi", "--write", ""),
        ("abi", "--check", ""),
        ("walk", CRASH, "--op", "0", "--gva", "DIRECT", "--svg", ""),
        ("repro", ""),
        ("corpus", "add", ""),
        ("bench", "traces", "--programs", "1", "--python", ""),
    ):
        done = hvfuzz(tmp_path, *arguments)
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1), (arguments, done.stderr)
    (tmp_path / "gone").mkdir()
    line = f"cd gone && rmdir ../gone && {sys.executable} -m hvfuzz.cli fuzz --runs 1"
    done = shell(line, tmp_path)
    assert (done.returncode, done.stderr) == (2, b"hvfuzz: current folder: No such file or directory\n")


def test_a_name_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    for name in ("n" * 255, "\u00fc" * 127):
        done = hvfuzz(tmp_path, "minimise", CRASH, "-o", name)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / name).read_text() == PROGRAM
