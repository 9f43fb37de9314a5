"""The command `hvfuzz cost`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hvfuzz.machine.clock import Cost

Run = Callable[..., Any]
SEED = Path(__file__).parents[3] / "corpus/multicall/many-calls-one-exit.hvp"


def test_what_a_program_cost_op_by_op(run: Run) -> None:
    document = json.loads(run("cost", SEED, "--json").out)
    assert document["total"] == sum(op["total"] for op in document["ops"]) == sum(document["kinds"].values())
    assert document["ops"][0]["text"].startswith("multicall(dom1")
    done = run("cost", SEED)
    assert done.status == 0
    lines = done.out.splitlines()
    assert f"{document['total']:,}" in lines[-1]
    assert "exits" in " ".join(lines[:2])
    assert f"{document['ops'][0]['total']:,}" in next(line for line in lines if "multicall(dom1, count=12)" in line)


def test_no_figure_is_cut_off_on_a_narrow_screen(run: Run) -> None:
    document = json.loads(run("cost", SEED, "--json").out)
    for columns in (60, 80, 120, 200):
        out = run("cost", SEED, columns=columns).out
        assert max(len(line) for line in out.splitlines()) <= columns
        words = set(out.replace(",\n", "\n").replace(", ", " ").split())
        assert {f"{amount:,}" for amount in (*document["kinds"].values(), document["total"])} <= words
        assert {f"{op['total']:,}" for op in document["ops"]} <= words


def test_each_figure_is_shown_with_its_source(run: Run) -> None:
    table = json.loads(run("cost", "--table", "--json").out)["table"]
    shown = " ".join(run("cost", "--table").out.split())
    assert len(table) == len(Cost.figures)
    for line in table:
        assert line["cycles"] == getattr(Cost, line["name"])
        assert f"{line['name']} {line['cycles']} " in shown
        assert f"{line['certainty']}: {line['source']}" in shown
    both = json.loads(run("cost", SEED, "--table", "--json").out)
    assert both["table"] == table
    assert both["total"] > 0


def test_bad_input(run: Run, tmp_path: Path) -> None:
    done = run("cost", tmp_path / "nothing.hvp")
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert run("cost", SEED, "--bug", "nobody").status == 2
    assert run("cost").status == 2
