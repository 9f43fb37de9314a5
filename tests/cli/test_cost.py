"""`hvfuzz cost`, as a user meets it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., Any]
SEED = Path(__file__).parents[2] / "corpus/multicall/many-calls-one-exit.hvp"


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


def test_bad_input(run: Run, tmp_path: Path) -> None:
    done = run("cost", tmp_path / "nothing.hvp")
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert run("cost", SEED, "--bug", "nobody").status == 2
