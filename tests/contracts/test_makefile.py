"""`make` on a machine as it is: an old Python, none, an environment of another Python, moved, or broken."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAKE = """\
#!/bin/sh
# Stands for Python {version}: prints its version, makes environments, installs; writes down what it does.
case "$1 $2" in
"-c "*) echo "{version}" ;;
"-m venv") rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python; echo "venv of {version}" >> log ;;
"-m pip") {install}
    printf '#!/bin/sh\\necho "hvfuzz $1" >> log\\n' > .venv/bin/hvfuzz
    chmod +x .venv/bin/hvfuzz
    echo installed >> log ;;
"-m hvfuzz.cli") echo docs >> log ;;
esac
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout with Pythons of several versions; "python3", the first on the PATH, is 3.11."""
    tree = tmp_path / "a checkout"
    tree.mkdir()
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tree)
    for name, version in (
        ("python3", "3.11 ok"),
        ("python3.12", "3.12 ok"),
        ("python3.10", "3.10"),
        ("python2", "2.7"),
    ):
        add_python(tree, name, version)
    return tree


def add_python(tree: Path, name: str, version: str, install: str = "") -> None:
    path = tree / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(FAKE.format(version=version, install=install))
    path.chmod(0o755)


def make(tree: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: os.environ[name] for name in os.environ if not name.startswith(("PYTHON", "MAKE", "VENV"))}
    path = f"{tree / 'bin'}:{environment['PATH']}"
    return subprocess.run(
        ["make", *arguments],
        cwd=tree,
        env={**environment, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def log(tree: Path) -> list[str]:
    """What was done since the last look."""
    path = tree / "log"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


SET_UP = ["installed", "hvfuzz --version"]


@pytest.mark.parametrize(
    ("python", "why"),
    [
        ("python3.10", "python3.10 is 3.10"),
        ("python2", "python2 is 2.7"),
        ("python9", "python9 does not run"),
        ("/nowhere/python", "/nowhere/python does not run"),
    ],
)
@pytest.mark.parametrize("goal", [[], ["test"], ["docs"]], ids=["fuzz", "test", "docs"])
def test_a_python_that_does_not_serve_is_one_line_at_once(tree: Path, python: str, why: str, goal: list[str]) -> None:
    for arguments in ([f"PYTHON={python}", *goal], goal):
        if "PYTHON" not in str(arguments):
            if not (tree / "bin" / python).exists():
                continue
            shutil.copy(tree / "bin" / python, tree / "bin" / "python3")
            why = why.replace(python, "python3")
        done = make(tree, *arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        assert why in done.stderr
        assert "needs Python 3.11 or later" in done.stderr
        assert "make PYTHON=python3.12" in done.stderr
        assert not (tree / ".venv").exists()
        assert make(tree, "help").returncode == 0
        assert make(tree, "clean").returncode == 0


def test_set_up_shows_its_steps_and_is_done_once(tree: Path) -> None:
    done = make(tree)
    assert done.returncode == 0, done.stderr
    steps = [line for line in done.stdout.splitlines() if line.startswith("set-up")]
    assert [line[:13] for line in steps] == ["set-up 1 of 3", "set-up 2 of 3", "set-up 3 of 3"]
    assert "Python 3.11" in steps[0]
    assert "--quiet" not in (ROOT / "Makefile").read_text().split("pip install")[1].splitlines()[0]
    assert log(tree) == ["venv of 3.11 ok", *SET_UP, "hvfuzz fuzz"]
    again = make(tree)
    assert "set-up" not in again.stdout
    assert log(tree) == ["hvfuzz fuzz"]
    os.utime(tree / "pyproject.toml", (2**33, 2**33))
    make(tree)
    assert log(tree) == [*SET_UP, "hvfuzz fuzz"]


def test_an_environment_that_cannot_serve_is_made_anew(tree: Path) -> None:
    # One that something else made, or that was interrupted.
    (tree / ".venv" / "bin").mkdir(parents=True)
    make(tree)
    assert log(tree) == ["venv of 3.11 ok", *SET_UP, "hvfuzz fuzz"]
    # One of another Python than the one that is named; it stays the next time, when none is named.
    make(tree, "PYTHON=python3.12")
    assert log(tree) == ["venv of 3.12 ok", *SET_UP, "hvfuzz fuzz"]
    make(tree)
    assert log(tree) == ["hvfuzz fuzz"]
    # One whose Python is gone, or too old by now.
    (tree / ".venv" / "bin" / "python").unlink()
    (tree / ".venv" / "bin" / "python").symlink_to("/nowhere/python3")
    make(tree)
    assert log(tree) == ["venv of 3.11 ok", *SET_UP, "hvfuzz fuzz"]
    shutil.copy(tree / "bin" / "python3.10", tree / ".venv" / "bin" / "python")
    make(tree)
    assert log(tree) == ["venv of 3.11 ok", *SET_UP, "hvfuzz fuzz"]
    # One that was moved with its checkout: its scripts name the old folder.
    moved = tree.rename(tree.with_name("moved"))
    make(moved)
    assert log(moved) == ["venv of 3.11 ok", *SET_UP, "hvfuzz fuzz"]


def test_a_set_up_that_fails_is_not_taken_for_one_that_is_done(tree: Path) -> None:
    add_python(tree, "python3", "3.11 ok", install="exit 1")
    assert make(tree).returncode == 2
    add_python(tree, "python3", "3.11 ok")
    log(tree)
    assert make(tree).returncode == 0
    assert log(tree) == ["venv of 3.11 ok", *SET_UP, "hvfuzz fuzz"]
