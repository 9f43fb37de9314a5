"""The command `hvfuzz bench mutants`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hvfuzz.cli.bench.mutants as command
from hvfuzz.campaign.bench.mutants.generation import all_mutants, sample
from hvfuzz.campaign.bench.mutants.judging import KILLED
from hvfuzz.campaign.bench.mutants.reach import NamedProgram, Reach
from hvfuzz.campaign.bench.mutants.results_file import read_judgements
from hvfuzz.campaign.bench.mutants.survivors import EQUIVALENT, read_survivor, survivor
from hvfuzz.campaign.program_files import read_program
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI

Run = Callable[..., Any]
ROOT = Path(__file__).parents[3]
STATUS_LOST = "hypervisor/core/dispatch.py:vmcall:early-return:3"
#: No program of the reach below executes it.
UNREACHED = "hypervisor/ipc/event_channels.py"


@pytest.fixture(autouse=True)
def reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Reach:
    """One program that reaches dispatch, and nothing else; the folder of survivors is that of `tmp_path`."""
    program = read_program(ROOT / "corpus" / "hypercalls" / "grant-copy.hvp", catalogue(ABI))
    lines = {"hypervisor/core/dispatch.py": frozenset(range(1, 300))}
    made = Reach([NamedProgram("grant-copy.hvp", program)], {}, [lines], [1])
    monkeypatch.setattr(command, "_reach", lambda: made)
    monkeypatch.chdir(tmp_path)
    return made


def test_show_prints_the_edit(run: Run) -> None:
    done = run("bench", "mutants", "--show", STATUS_LOST)
    assert done.status == 0
    assert done.out.startswith(f"{STATUS_LOST}, line ")
    assert "\n+    return\n" in done.out
    document = json.loads(run("bench", "mutants", "--show", STATUS_LOST, "--json").out)
    assert document["id"] == STATUS_LOST
    assert document["diff"] in done.out


def test_only_prints_what_killed_it(run: Run) -> None:
    done = run("bench", "mutants", "--only", STATUS_LOST, "--budget", 0)
    assert done.status == 0
    assert f"{STATUS_LOST}: killed by corpus: " in done.out
    assert "in grant-copy.hvp" in done.out
    document = json.loads(run("bench", "mutants", "--only", STATUS_LOST, "--budget", 0, "--json").out)
    assert (document["verdict"], document["program"], document["judged"]) == (KILLED, "grant-copy.hvp", None)


def test_only_exits_with_1_for_a_survivor_and_says_how_it_was_judged(run: Run) -> None:
    record = survivor(all_mutants([UNREACHED])[0], EQUIVALENT, "nobody can tell")
    Path("folder").mkdir()
    (Path("folder") / record.file_name).write_text(record.text())
    done = run("bench", "mutants", "--only", record.id, "--budget", 0, "--survivors", "folder")
    assert done.status == 1
    assert f"{record.id}: survived after no programs, not reached by the corpus" in done.out
    assert "judged: equivalent: nobody can tell" in done.out


def test_a_sample_is_judged_recorded_and_resumed(run: Run) -> None:
    arguments = ("bench", "mutants", "--files", "hypervisor/ipc", "--sample", 3, "--seed", 4, "--budget", 0)
    arguments += ("--results", "r.jsonl", "--survivors", "folder")
    done = run(*arguments)
    assert done.status == 0
    ids = [each.id for each in sample(all_mutants(["hypervisor/ipc"]), 3, 4)]
    judgements = read_judgements(Path("r.jsonl"))
    assert [each.mutant.id for each in judgements] == ids
    for each in ids:
        assert f"{each}: survived after no programs, not reached by the corpus" in done.out
    assert not Path("folder").exists()
    size = Path("r.jsonl").stat().st_size
    document = json.loads(run(*arguments, "--record", "--json").out)
    assert Path("r.jsonl").stat().st_size == size  # nothing was judged again
    assert document["scores"]["all files"]["score"] == 0
    assert {read_survivor(Path(name)).id for name in document["recorded"]} == set(ids)
    first = survivor(judgements[0].mutant, EQUIVALENT, "so")
    (Path("folder") / first.file_name).write_text(first.text())
    document = json.loads(run(*arguments, "--record", "--json").out)
    assert document["recorded"] == []
    assert document["scores"]["all files"]["equivalent"] == 1
    done = run(*arguments)
    assert first.id not in done.out
    stale = first.text().replace("\n+", "\n+ other ")
    (Path("folder") / first.file_name).write_text(stale)
    assert f"warning: {first.id} was judged as another edit" in run(*arguments).out


def test_ctrl_c_prints_the_figures_so_far(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def requested(self: object) -> bool:
        asked.append(1)
        return True

    monkeypatch.setattr("hvfuzz.campaign.workers.stop_signal.StopSignal.requested", requested)
    done = run("bench", "mutants", "--files", "hypervisor/ipc", "--budget", 0)
    assert asked
    assert "all files" in done.out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--show", "a", "--only", "b"), "--show and --only contradict each other"),
        (("--show", STATUS_LOST, "--sample", 3), "--sample has no effect with --show"),
        (("--only", STATUS_LOST, "--critical"), "--critical has no effect with --only"),
        (("--only", STATUS_LOST + "9"), "no mutant"),
        (("--files", "hypervisor/nothing.py"), "no file of hypervisor"),
        (("--sample", 0), "0 is not in the range"),
    ],
)
def test_wrong_input_is_refused(run: Run, arguments: tuple[object, ...], why: str) -> None:
    done = run("bench", "mutants", *arguments)
    assert done.status == 2
    assert why in done.err


def test_a_bad_record_and_a_bad_result_are_refused(run: Run) -> None:
    Path("folder").mkdir()
    (Path("folder") / "a.txt").write_text("nothing")
    done = run("bench", "mutants", "--only", STATUS_LOST, "--survivors", "folder")
    assert (done.status, "a.txt: expected" in done.err) == (2, True)
    Path("r.jsonl").write_text("{}\n")
    done = run("bench", "mutants", "--sample", 1, "--results", "r.jsonl")
    assert (done.status, "line 1 is no judgement" in done.err) == (2, True)
