"""The list of all oracles, and the choice of some of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.abi.boot import WORLDS
from hvfuzz.hypervisor.core.boot import boot
from hvfuzz.oracles.framework.all_oracles import NAMES, ORACLES
from hvfuzz.oracles.framework.suite import OracleSuite


def test_unknown_oracle() -> None:
    hv = boot(WORLDS[0])
    with pytest.raises(ValueError, match="no oracle 'onwership'"):
        OracleSuite(hv.machine, hv, WORLDS[0], frozenset({"ownership", "onwership"}))


def test_every_oracle_has_a_name_and_rules() -> None:
    assert len(set(NAMES)) == len(ORACLES)
    for oracle in ORACLES:
        assert oracle.rules
        assert all("/" not in rule and rule.strip() for rule in oracle.rules)


def test_only_the_oracles_that_were_asked_for(watched: Callable[..., Any]) -> None:
    place = 0
    for name in ("recount", "ownership"):
        rig = watched(name)
        place = rig.word(rig.frame(1, 0x50))
        rig.poke(place, 0xFF)
        assert {finding.oracle for finding in rig.suite.findings} == {name}
