"""The clean hypervisor has no findings: random programs in every world, with all oracles and the audit."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from hvfuzz.abi.boot import WORLDS
from hvfuzz.guest.generate.generator import generate
from hvfuzz.guest.mutate.mutation import mutate
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI

CATALOGUE = catalogue(ABI)


@pytest.mark.parametrize("world", range(len(WORLDS)), ids=[world.name for world in WORLDS])
def test_random_programs(rigs: Any, world: int) -> None:
    rig = rigs(world)
    rng = Random(world)
    for _ in range(15):
        program = generate(rng, CATALOGUE, ops=25, worlds=(world,))
        for _ in range(3):
            rig.restore()
            rig.perform(program._replace(world=world))
            rig.suite.audit()
            assert rig.suite.findings == []
            program = mutate(program, rng, CATALOGUE, None)


def test_long_program(rigs: Any) -> None:
    rig = rigs(2)
    for number in range(2):
        rig.restore()
        rig.perform(generate(Random(number), CATALOGUE, ops=250, worlds=(2,)))
        rig.suite.audit()
        assert rig.suite.findings == []
