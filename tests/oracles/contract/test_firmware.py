"""The second reader of DMAR tables: of one mind with the hypervisor, on damage, too, and able to tell faults."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from hvfuzz.hypervisor.core.host import HostFault, HostMemory
from hvfuzz.hypervisor.memory.rmrr import read_regions
from hvfuzz.machine.machine import Machine
from hvfuzz.oracles.contract.firmware_checks import reading_faults
from hvfuzz.oracles.contract.firmware_tables import MEMORY, PLACE, trials
from hvfuzz.oracles.contract.spec.platform.firmware import regions
from hvfuzz.targets.emulated.firmware_trials import readings


def test_the_hypervisor_reads_all_of_them_as_it_must() -> None:
    assert [*reading_faults(readings())] == []


def test_there_are_good_ones_and_bad_ones() -> None:
    found = [regions(table + bytes(MEMORY - PLACE - len(table)), MEMORY) for table in trials().values()]
    assert sum(each is None for each in found) >= 50
    assert sum(each is not None for each in found) >= 15


def test_a_table_read_although_it_is_bad_and_one_refused_although_it_is_good() -> None:
    told = {**readings(), "a wrong sum": {}, "a region": "HostFault: no", "no region": "KeyError: 1"}
    texts = [*reading_faults(told)]
    assert len(texts) == 3
    assert any("a wrong sum should be refused, but gives {}" in text for text in texts)
    assert any("with a region should be read as {40: range(1, 2)}" in text for text in texts)


@pytest.mark.parametrize("seed", range(8))
def test_of_one_mind_on_random_damage(seed: int) -> None:
    """One to three bytes of a table change; the sum is mostly mended."""
    rng = Random(seed)
    machine = Machine(MEMORY)
    host = HostMemory(machine)
    good = [*trials().values()]
    read = 0
    for _ in range(300):
        table = bytearray(rng.choice(good))
        for _ in range(rng.randint(1, 3)):
            at = (
                rng.randrange(4, len(table))
                if rng.random() < 0.3
                else rng.randrange(min(48, len(table) - 1), len(table))
            )
            table[at] = rng.choice((0, 1, 2, 3, 4, 8, 0x10, 0x20, 0xFF, rng.randrange(256)))
        if rng.random() < 0.9:
            table[9] = table[9] - sum(table) & 0xFF
        machine.memory.fill(0)
        machine.memory.write(PLACE, bytes(table))
        found: Any = None
        try:
            found = read_regions(host, PLACE)
            read += 1
        except HostFault:
            pass
        assert regions(bytes(table) + bytes(MEMORY - PLACE - len(table)), MEMORY) == found
    assert read > 10
