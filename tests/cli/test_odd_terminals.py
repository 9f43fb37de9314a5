"""Every command says the same on a terminal that is narrow, low, dumb, without colour or without UTF-8."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import hvfuzz.cli

ROOT = Path(__file__).parents[2]
CRASH = next((ROOT / "crashes").glob("*@xsa-221")) / "program.hvp"
MANY = ROOT / "corpus" / "multicall" / "many-calls-one-exit.hvp"

ODD = {
    "no columns": {"COLUMNS": "0"},
    "columns that are no number": {"COLUMNS": "\u00b2", "LINES": "-1"},
    "huge": {"COLUMNS": "9" * 30, "LINES": "9" * 5000},
    "20 columns": {"COLUMNS": "20"},
    "40 columns": {"COLUMNS": "40"},
    "one line": {"LINES": "1", "COLUMNS": "80"},
    "no lines": {"LINES": "0"},
    "dumb": {"TERM": "dumb"},
    "no colour": {"NO_COLOR": "1", "TERM": "xterm"},
}
SMALL = "SMALL"
"""Stands for the folder of a corpus with one program."""
COMMANDS = [
    ["bugs", "list"],
    ["bugs", "show", "xsa-212"],
    ["bugs", "verify", "xsa-221"],
    ["corpus", "stats", "--root", SMALL],
    ["corpus", "prune", ROOT / "corpus" / "abi", "--dry-run"],
    ["repro", CRASH, "--trace"],
    ["repro", CRASH, "--json"],
    ["show", CRASH],
    ["walk", MANY, "--op", "1", "--gva", "DIRECT+0x1000", "--cold"],
    ["cost", MANY],
    ["cost", "--table"],
    ["minimise", CRASH],
    ["bench", "traces", "--programs", "2"],
    ["abi"],
    ["--help"],
    ["fuzz", "--help"],
    ["repro", "nowhere.hvp"],
    ["fuzz", "--workers", "0"],
]

HEADINGS = {"event", "description,", "source"}
"""Words above the columns of a table that a narrow terminal does not need."""


class Stream(io.TextIOWrapper):
    """A stream in memory, which may call itself a terminal."""

    def __init__(self, encoding: str, *, terminal: bool) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def text(self) -> str:
        """What was written to it."""
        self.flush()
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode(self.encoding)


Output = Callable[..., tuple[int, str, str]]


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Output:
    """output(arguments, environment, encoding, terminal) runs a command; returns its status and its output."""

    small = str(tmp_path)
    (tmp_path / "abi").mkdir()
    (tmp_path / "abi" / "seed.hvp").write_text(CRASH.read_text())

    def run(
        arguments: list[object], environment: dict[str, str], encoding: str, terminal: bool
    ) -> tuple[int, str, str]:
        with monkeypatch.context() as patch:
            for name in ("COLUMNS", "LINES", "TERM", "NO_COLOR", "FORCE_COLOR"):
                patch.delenv(name, raising=False)
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.chdir(ROOT)
            words = [small if word == SMALL else str(word) for word in arguments]
            patch.setattr(sys, "argv", ["hvfuzz", *words])
            out, err = Stream(encoding, terminal=terminal), Stream(encoding, terminal=terminal)
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            with pytest.raises(SystemExit) as end:
                hvfuzz.cli.main()
        return int(end.value.code or 0), out.text(), err.text()

    return run


def words(text: str) -> set[str]:
    """The words of `text`; long ones may be folded, so all white space goes."""
    return {word.strip("\u2026") for word in text.split()}


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda each: " ".join(str(word) for word in each[:2]))
def test_nothing_is_lost_and_nothing_fails(output: Output, arguments: list[object]) -> None:
    status, expected, errors = output(arguments, {"COLUMNS": "250"}, "utf-8", False)
    assert status in (0, 1, 2), errors
    assert expected or errors
    for name, environment in ODD.items():
        for encoding in ("utf-8", "ascii") if name == "20 columns" else ("ascii",):
            got, out, err = output(arguments, environment, encoding, False)
            assert (got, bool(out), bool(err)) == (status, bool(expected), bool(errors)), (name, encoding, err)
            if expected.isascii() or encoding == "utf-8":  # else escapes stand for what the encoding lacks
                missing = {word for word in words(expected) if word not in "".join(out.split())}
                assert missing <= HEADINGS, (name, encoding, out)
    assert "\x1b" not in expected + errors


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("environment", ODD.values(), ids=list(ODD))
def test_a_campaign_on_an_odd_terminal(
    output: Output, tmp_path: Path, environment: dict[str, str], encoding: str
) -> None:
    arguments = ["--engine", "replay", "--corpus", CRASH, "--bug", "xsa-221", "--out", tmp_path]
    status, out, err = output(["fuzz", *arguments], environment, encoding, True)
    assert status == 1, err
    assert "1 finding in 1 program and 1 op" in out
    assert "host_memory/null/sched.poll" in out
    assert err == ""
    assert encoding == "utf-8" or "\\u" not in out


@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_a_locale_without_utf8(locale: dict[str, str]) -> None:
    for arguments in (["bugs", "list"], ["abi"], ["repro", "\udcff\u00fc"]):
        done = subprocess.run(
            [sys.executable, "-m", "hvfuzz.cli", *arguments],
            env={**os.environ, **locale},
            cwd=ROOT,
            capture_output=True,
            check=False,
        )
        assert done.returncode == (2 if "repro" in arguments else 0), done.stderr
        assert done.stderr.count(b"\n") == (1 if "repro" in arguments else 0)


def test_control_characters_from_data_do_not_reach_the_terminal(output: Output, tmp_path: Path) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\x00"
    bug = tmp_path / "evil.py"
    bug.write_text(
        "from dataclasses import replace\nfrom hvfuzz.bugs import find_bug\n"
        f"BUG = replace(find_bug('xsa-221'), name={evil!r}, title={evil!r}, story={evil!r}, advisory={evil!r})\n"
    )
    named = tmp_path / "\x1b[31m.hvp"
    named.write_text(CRASH.read_text())
    broken = tmp_path / "broken.hvp"
    broken.write_text("# hvp 1\nworld pair\nsched.poll(dom1, \x1b[2J\x00=1)\n")
    missing = tmp_path / "\x1b[2J"
    for arguments in (
        ["bugs", "show", bug],
        ["bugs", "verify", bug],
        ["repro", CRASH, "--bug", bug],
        ["repro", CRASH, "--bug", evil.replace("\0", "")],
        ["repro", named],
        ["repro", broken],
        ["repro", missing],
        ["minimise", named, "--bug", bug],
        ["cost", missing],
        ["fuzz", "\x1b[2J"],
        ["fuzz", "--\x1b[2J"],
        ["\x1b[2J"],
        ["fuzz", "--engine", "replay", "--corpus", named, "--bug", bug, "--out", tmp_path / "\x1b[1mout"],
        ["corpus", "add", named, "--root", tmp_path / "\x1b[1mcorpus"],
    ):
        status, out, err = output(arguments, {"COLUMNS": "250"}, "utf-8", False)
        assert status in (0, 1, 2), err
        assert (out + err).replace("\n", "").isprintable(), arguments
        if err:
            assert err.count("\n") == 1


def test_a_reader_that_goes_away_is_no_finding() -> None:
    """`hvfuzz ... | head -1`: status 141, as after SIGPIPE, whatever printed the line."""
    for arguments in (["bugs", "list"], ["show", str(CRASH)], ["--help"]):
        reader, writer = os.pipe()
        os.close(reader)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "hvfuzz.cli", *arguments],
                stdout=writer,
                stderr=subprocess.PIPE,
                cwd=ROOT,
                check=False,
            )
        finally:
            os.close(writer)
        assert (done.returncode, done.stderr) == (141, b""), arguments


def test_closed_streams_are_no_internal_error() -> None:
    for redirection, status in ((">&-", 0), ("2>&-", 0), (">&- 2>&-", 0)):
        done = subprocess.run(
            ["bash", "-c", f"{sys.executable} -m hvfuzz.cli bugs list {redirection}"], cwd=ROOT, check=False
        )
        assert done.returncode == status
    done = subprocess.run(["bash", "-c", f"{sys.executable} -m hvfuzz.cli repro x >&- 2>&-"], cwd=ROOT, check=False)
    assert done.returncode == 2


def test_a_campaign_with_closed_streams_has_its_status(tmp_path: Path) -> None:
    """Files that are opened must not take the numbers of the closed streams: output would go into them."""
    crash = next((ROOT / "crashes").glob("*@xsa-221")) / "program.hvp"
    for number, redirection in enumerate((">&-", "<&- >&- 2>&-")):
        out = tmp_path / str(number)
        line = f"{sys.executable} -m hvfuzz.cli fuzz --engine replay --corpus {crash} --bug xsa-221 --out {out}"
        done = subprocess.run(
            ["bash", "-c", f"{line} {redirection}"],
            cwd=ROOT,
            check=False,
            capture_output=True,
        )
        assert (done.returncode, done.stdout, done.stderr) == (1, b"", b""), redirection
        assert list(out.glob("findings/*/program.hvp"))
        assert json.loads((out / "report.json").read_text())["runs"] == 1
