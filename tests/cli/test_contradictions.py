"""Options that contradict each other, that have no effect, or whose numbers are none: one line, and status 2."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CRASH = next((ROOT / "crashes").glob("*@xsa-221")) / "program.hvp"
Run = Callable[..., Any]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fuzz", "--no-corpus", "--corpus", ROOT / "corpus/dma"), "--no-corpus and --corpus contradict each other"),
        (("fuzz", "--engine", "random", "--feedback", "both"), "--feedback has no effect on engine 'random'"),
        (("fuzz", "--engine", "replay", "--workers", "2"), "--workers has no effect on engine 'replay'"),
        (("fuzz", "--engine", "replay", "--no-corpus"), "engine 'replay' needs seeds"),
        (("abi", "--write", "x", "--check", "ABI.md"), "--write and --check contradict each other"),
        (("abi", "--write", "x", "--json"), "--write and --json contradict each other"),
        (("abi", "--check", "ABI.md", "--json"), "--check and --json contradict each other"),
        (("cost", "--table", "--bug", "xsa-221"), "--bug has no effect without FILE"),
        (("bench", "bugs", "--engine", "random", "--feedback", "both"), "--feedback has no effect"),
    ],
)
def test_options_that_contradict_each_other(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert (done.status, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


WORDS = ["nan", "inf", "-inf", "1e400", "-1", "", " ", "1_0", "0x10"]
NO_NUMBERS = [*WORDS, "\u0663", "\u0663.\u0665", "1" * 100_000, "9" * 39, "1\0"]


@pytest.mark.parametrize("number", NO_NUMBERS, ids=lambda each: ascii(each[:8]))
def test_a_number_that_is_none(run: Run, tmp_path: Path, number: str) -> None:
    for arguments in (
        ("fuzz", "--time"),
        ("fuzz", "--workers"),
        ("fuzz", "--seed"),
        ("minimise", CRASH, "--time"),
        ("bench", "speed", "--rounds"),
        ("bench", "speed", "--engine-time"),
        ("bench", "speed", "--seed"),
        ("bench", "bugs", "--trials"),
        ("bench", "bugs", "--time"),
        ("bench", "clean", "--workers"),
        ("bench", "traces", "--seed"),
        ("walk", CRASH, "--op", "0", "--gva"),
    ):
        if arguments[0] == "walk" and number in ("0x10", "1_0"):
            continue
        out = ("--out", tmp_path) if arguments[0] == "fuzz" else ()
        done = run(*arguments, number, *out)
        assert done.status == 2, arguments
        assert done.err.count("\n") == 1
        assert len(done.err) < 400


def test_numbers_without_an_upper_bound_are_still_numbers(run: Run, tmp_path: Path) -> None:
    for option in ("--runs",):
        for number in ("nan", "-1", "\u0663", "1" * 100_000, "0"):
            done = run("fuzz", option, number, "--out", tmp_path)
            assert (done.status, done.err.count("\n")) == (2, 1)
            assert len(done.err) < 400


@pytest.mark.parametrize("out", [".", "corpus/hypercalls", "corpus/dma", "seeds"])
def test_no_new_files_among_reviewed_seeds(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, out: str) -> None:
    for folder in ("corpus/hypercalls", "corpus/dma", "seeds"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "seed.hvp").write_text(CRASH.read_text())
    monkeypatch.chdir(tmp_path)
    done = run("fuzz", "--engine", "random", "--runs", 5, "--out", out, "--corpus", "seeds")
    assert done.status == 2
    assert "new files would land among the seeds" in done.err
    assert done.err.count("\n") == 1
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 3
    # A second campaign in one folder is fine.
    for _ in range(2):
        assert run("fuzz", "--engine", "random", "--runs", 5, "--out", "out").status == 0
