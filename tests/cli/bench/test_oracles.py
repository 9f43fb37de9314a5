"""The command `hvfuzz bench oracles`."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.campaign.bench import speed
from hvfuzz.oracles.framework.all_oracles import NAMES

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "BATCH", 6)


def test_it_measures_each_oracle(run: Run) -> None:
    document = json.loads(run("bench", "oracles", "--rounds", 1, "--json").out)
    assert (document["rounds"], document["programs"]) == (1, 6)
    everything, nothing, *oracles = document["oracles"]
    assert (everything["name"], nothing["name"]) == ("all oracles", "no oracles")
    assert [row["name"] for row in oracles] == list(NAMES)
    for row in (everything, nothing):  # What an oracle adds may be below the noise.
        assert row["plain"] > 0
        assert row["audited"] >= 0


def test_the_table_has_a_line_for_each(run: Run) -> None:
    done = run("bench", "oracles", "--rounds", 1)
    assert done.status == 0
    lines = done.out.splitlines()
    assert "6 programs, median of 1 round" in lines[0]
    assert [line.split("  ")[0].strip() for line in lines[2:]] == ["all oracles", "no oracles", *NAMES]
