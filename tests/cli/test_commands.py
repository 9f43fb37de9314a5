"""Every command: its output, its JSON, its exit status, and its one-line errors."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hvfuzz.cli
import hvfuzz.cli.live_view
from hvfuzz.bugs import known_bugs
from hvfuzz.campaign.program_files import read_program
from hvfuzz.guest.format.binary import encode
from hvfuzz.guest.format.text import parse, render
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI

ROOT = Path(__file__).parents[2]
CRASHES = ROOT / "crashes"
CRASH = next(CRASHES.glob("*@xsa-224")) / "program.hvp"
CLEAN = "# hvp 1\nworld pair\nr0 = grant.create(dom1, gfn=0x40, to=dom2, rights=R)\ngrant.revoke(dom1, ref=r0)\n"


Run = Callable[..., Any]


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """A program without findings."""
    path = tmp_path / "clean.hvp"
    path.write_text(CLEAN)
    return path


# Help and usage errors.


@pytest.mark.parametrize("command", hvfuzz.cli.COMMANDS)
def test_help_has_examples(run: Run, command: str) -> None:
    done = run(command, "--help")
    assert done.status == 0
    assert "hvfuzz " + command in done.out
    assert run("--help").out.count(command) >= 1


@pytest.mark.parametrize(
    "arguments", [("frob",), ("repro",), ("fuzz", "--time", "never"), ("show", "--frob", "x"), ("--", "-x")]
)
def test_a_wrong_command_line_is_one_line(run: Run, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.status == 2
    assert done.err.startswith("hvfuzz: ")
    assert done.err.count("\n") == 1


# Reproduction.


def test_repro_of_a_finding_that_still_happens(run: Run) -> None:
    done = run("repro", CRASH)
    assert done.status == 1
    assert "recount/pins/grant.unmap" in done.out
    document = json.loads(run("repro", CRASH, "--json").out)
    assert document["bug"] == "xsa-224"
    assert "recount/pins/grant.unmap" in [finding["identity"] for finding in document["findings"]]


def test_repro_of_one_that_does_not(run: Run, clean: Path) -> None:
    assert run("repro", CRASH, "--bug", "none").status == 0
    done = run("repro", clean)
    assert done.status == 0
    assert "no findings" in done.out
    digests = {json.loads(run("repro", clean, "--json").out)["digest"] for _ in range(2)}
    assert len(digests) == 1


def test_a_trace_tells_what_happened(run: Run, tmp_path: Path) -> None:
    done = run("repro", CRASH, "--trace")
    for word in ("grant.map", "exit", "VMCALL", "fetch", "step", "ReleaseSide", "OK", "  ! recount/pins/grant.unmap"):
        assert word in done.out
    assert json.loads(run("repro", CRASH, "--trace", "--json").out)["trace"]
    cold = tmp_path / "cold.hvp"
    cold.write_text("# hvp 1\nworld pair\nload(dom1, gva=DIRECT+0x41000, size=8)\nexecute(dom1, gva=0)\n")
    assert "guest L2 cached" not in run("repro", cold, "--trace").out, "walks are folded"
    done = run("repro", cold, "--trace", "--verbose")
    assert "walk" in done.out
    assert "guest L2 cached, table 0x" in done.out
    assert "#PF" in done.out


TEXT = CLEAN.encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (bytes(range(256)) * 8, "not a program"),
        (TEXT[:40], "line 3"),
        (b"# hvp 1\nworld pair\nload(dom1, gva=\xff\xfe)\n", "UTF-8"),
        (TEXT.replace(b"grant.create", b"grant.crate"), "did you mean 'grant.create'"),
        (TEXT.replace(b"gfn=", b"gnf="), "did you mean 'gfn'"),
        (TEXT.replace(b"world pair", b"world pear"), "did you mean 'pair'"),
        (TEXT.replace(b"ref=r0", b"ref=r7"), "r7"),
        (TEXT.replace(b"dom1", b"dom7"), "dom7"),
        (b"# hvp 1\n" + b"#" * (2 << 20), "at most"),
    ],
)
@pytest.mark.parametrize("command", ["repro", "show", "minimise"])
def test_a_damaged_program_is_one_line(run: Run, tmp_path: Path, command: str, data: bytes, message: str) -> None:
    path = tmp_path / "program.hvp"
    path.write_bytes(data)
    done = run(command, path)
    assert done.status == 2
    assert message in done.err
    assert str(path) in done.err
    assert done.err.count("\n") == 1


def test_a_truncated_unit_is_refused(run: Run, tmp_path: Path) -> None:
    ops = catalogue(ABI)
    unit = tmp_path / "unit"
    unit.write_bytes(encode(parse(CLEAN, ops), ops))
    assert run("show", unit).out == CLEAN
    document = json.loads(run("show", unit, "--json").out)
    assert (document["world"], document["ops"]) == ("pair", CLEAN.replace("r0 = ", "").splitlines()[2:])
    assert bytes.fromhex(document["bytes"]) == unit.read_bytes()
    unit.write_bytes(unit.read_bytes()[:-3])
    assert run("show", unit).status == 2


def test_a_folder_and_a_missing_file_are_refused(run: Run, tmp_path: Path) -> None:
    assert "folder" in run("repro", tmp_path).err
    assert "No such file" in run("repro", tmp_path / "none.hvp").err


def test_a_damaged_record_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "finding.json").write_text("{")
    (tmp_path / "program.hvp").write_text(CLEAN)
    done = run("repro", tmp_path / "program.hvp")
    assert done.status == 2
    assert "finding.json" in done.err


# Minimising.


def test_minimise_keeps_the_finding(run: Run, tmp_path: Path) -> None:
    long = tmp_path / "long.hvp"
    lines = render(read_program(CRASH, catalogue(ABI))).splitlines()
    long.write_text("\n".join([*lines[:2], "cpuid(dom1, leaf=0)", *lines[2:], "pause(dom2)"]) + "\n")
    small = tmp_path / "small.hvp"
    done = run("minimise", long, "--bug", "xsa-224", "-o", small)
    assert done.status == 0, done.err
    assert len(small.read_text().splitlines()) == 5
    assert run("repro", small, "--bug", "xsa-224").status == 1
    document = json.loads(run("minimise", long, "--bug", "xsa-224", "--json").out)
    assert document["ops"] == 3


def test_minimise_needs_a_finding(run: Run, clean: Path) -> None:
    done = run("minimise", clean)
    assert done.status == 2
    assert "finding" in done.err


# Bugs, corpus, contract.


def test_bugs(run: Run) -> None:
    rows = json.loads(run("bugs", "list", "--json").out)
    assert [row["name"] for row in rows] == list(known_bugs())
    assert "xsa-212" in run("bugs", "list").out
    assert "Cause:" in run("bugs", "show", "xsa-212").out
    assert json.loads(run("bugs", "show", "xsa-212", "--json").out)["difficulty"] == 3
    done = run("bugs", "verify", "xsa-221", "xsa-78")
    assert done.status == 0
    assert "xsa-78" in done.out
    assert run("bugs", "show", "xsa-2120").status == 2


OWN = """\
from hvfuzz.bugs import Bug

def polled_port(domain, port):
    return None

BUG = Bug("mine", "hvfuzz.hypervisor.hypercalls.sched:polled_port", polled_port,
          findings={findings}, trigger={trigger!r})
"""
POLL = "# hvp 1\nworld pair\nsched.poll(dom1, ports=[], count=1, timeout=0)\n"


@pytest.mark.parametrize(
    ("trigger", "findings", "status", "words"),
    [
        ("", (), 1, "has no trigger to run"),
        (POLL, ("host_memory/null/sched.poll",), 1, "finds nothing; expected host_memory/null/sched.poll"),
        (POLL.replace("dom1", "dom7"), (), 2, "mine: trigger: line 3"),
    ],
)
def test_a_bug_that_does_not_behave(
    run: Run, tmp_path: Path, trigger: str, findings: tuple[str, ...], status: int, words: str
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(OWN.format(trigger=trigger, findings=findings))
    done = run("bugs", "verify", path)
    assert done.status == status
    assert words in done.out + done.err
    if status == 1:
        assert done.out.startswith("BAD mine ")
        (row,) = json.loads(run("bugs", "verify", path, "--json").out)
        assert (row["bug"], row["good"], row["expected"]) == ("mine", False, list(findings))


def test_corpus(run: Run, tmp_path: Path, clean: Path) -> None:
    assert run("corpus", "add", clean, "--root", tmp_path / "corpus").status == 0
    added = tmp_path / "corpus" / "hypercalls" / "clean.hvp"
    assert added.read_text() == CLEAN
    again = tmp_path / "again.hvp"
    again.write_text(CLEAN)
    assert run("corpus", "add", again, "--root", tmp_path / "corpus").status == 0
    rows = json.loads(run("corpus", "stats", "--root", tmp_path / "corpus", "--json").out)
    assert rows[-1]["programs"] == 2
    assert "hypercalls" in run("corpus", "stats", "--root", tmp_path / "corpus").out
    assert "would" in run("corpus", "prune", added.parent, "--dry-run").out
    document = json.loads(run("corpus", "prune", added.parent, "--dry-run", "--json").out)
    assert sorted(document["kept"] + document["dropped"]) == sorted(map(str, added.parent.iterdir()))
    assert len(document["dropped"]) == 1
    assert len(list(added.parent.iterdir())) == 2
    assert run("corpus", "prune", added.parent).status == 0
    assert len(list(added.parent.iterdir())) == 1
    (tmp_path / "bad.hvp").write_text("x")
    assert run("corpus", "add", tmp_path / "bad.hvp", "--root", tmp_path / "corpus").status == 2


def test_abi(run: Run, tmp_path: Path) -> None:
    assert run("abi").out == (ROOT / "ABI.md").read_text()
    assert run("abi", "--check", ROOT / "ABI.md").status == 0
    stale = tmp_path / "ABI.md"
    stale.write_text("old")
    assert run("abi", "--check", stale).status == 1
    run("abi", "--write", stale)
    assert run("abi", "--check", stale).status == 0
    assert len(json.loads(run("abi", "--json").out)) == len(ABI.calls)


# Fuzzing.


def test_fuzz_finds_a_planted_bug(run: Run, tmp_path: Path) -> None:
    arguments = ("fuzz", "--engine", "random", "--runs", 60, "--seed", 3, "--bug", "pkvm-09cce60bddd")
    done = run(*arguments, "--out", tmp_path / "out", "--json")
    assert done.status == 1, done.err
    last = json.loads(done.out.splitlines()[-1])
    assert {"runs", "ops", "seconds", "features", "findings"} <= set(last)
    finding = last["findings"][0]
    assert {"identity", "file", "runs", "seconds"} <= set(finding)
    assert run("repro", finding["file"]).status == 1
    assert (tmp_path / "out" / "report.md").is_file()


def test_fuzz_of_the_clean_hypervisor_finds_nothing(run: Run, tmp_path: Path) -> None:
    done = run("fuzz", "dma", "--engine", "random", "--runs", 50, "--seed", 3, "--out", tmp_path / "out")
    assert done.status == 0, done.err
    assert "no findings" in done.out


def test_fuzz_tells_how_far_it_is_line_by_line(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hvfuzz.cli.live_view, "PLAIN_SECONDS", 0.1)
    arguments = ("fuzz", "--engine", "random", "--runs", 150, "--seed", 3, "--no-minimise", "--bug", "pkvm-09cce60bddd")
    done = run(*arguments, "--out", tmp_path / "one", "--json")
    *lines, last = map(json.loads, done.out.splitlines())
    assert lines
    assert set(lines[0]) == {"runs", "ops", "seconds", "features", "corpus", "last_new", "profiles", "findings"}
    for figure in ("runs", "ops", "seconds"):
        figures = [line[figure] for line in (*lines, last)]
        assert figures == sorted(figures)
    shown = run(*arguments, "--out", tmp_path / "other").out.splitlines()
    assert "FINDING specification/status/grant.create" in shown
    assert any(
        re.fullmatch(r"0:0\d  programs \S+  ops \S+  features \d+  corpus \d+  findings \d+", line) for line in shown
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hypercals",), "did you mean 'hypercalls'"),
        (("--engine", "afl"), "no engine 'afl'"),
        (("--bug", "xsa-9"), "no bug"),
        (("--bug", "nowhere.py"), "nowhere.py"),
        (("--out", "/proc/nowhere"), "/proc/nowhere"),
        (("--time", "nan"), "'nan' is not a finite number"),
        (("--time", "inf"), "inf is not in the range"),
    ],
)
def test_fuzz_refuses_what_it_does_not_know(run: Run, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    out = () if "--out" in arguments else ("--out", tmp_path / "out")
    done = run("fuzz", "--runs", 10, *arguments, *out)
    assert done.status == 2
    assert message in done.err
    assert done.err.count("\n") == 1


def test_fuzz_passes_over_damaged_seeds_and_says_so(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "seeds"
    folder.mkdir()
    (folder / "empty").touch()
    (folder / "good.hvp").write_text("# hvp 1\nworld pair\npause(dom1)\n")
    done = run("fuzz", "--engine", "replay", "--corpus", folder, "--out", tmp_path / "out")
    notice = f"passed over 1 file in folders of programs: the file is empty: {folder / 'empty'}"
    assert (done.status, done.err) == (0, "")
    assert f"warning: {notice}" in done.out
    assert "no findings in 1 program" in done.out
    assert notice in (tmp_path / "out" / "report.md").read_text()


def test_prune_passes_over_damaged_files_and_says_so(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "good.hvp").write_text("# hvp 1\nworld pair\npause(dom1)\n")
    done = run("corpus", "prune", tmp_path)
    assert done.status == 0
    assert done.out == "deleted 0 of 1 program\n"
    assert done.err == (
        f"hvfuzz: warning: passed over 1 file in folders of programs: the file is empty: {tmp_path / 'empty'}\n"
    )
    assert (tmp_path / "empty").exists()
