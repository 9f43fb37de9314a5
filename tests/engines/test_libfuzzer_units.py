"""Units are canonical encodings of programs, and keep to the limits of size and number."""

import random
from pathlib import Path

import pytest

from hvfuzz.engines.engine import Job
from hvfuzz.engines.libfuzzer_units import KEPT_PROGRAMS, Units
from hvfuzz.guest.format.binary import decode, encode
from hvfuzz.guest.generate.generator import generate
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.targets.harness import find_harness

CATALOGUE = catalogue(ABI)


@pytest.mark.parametrize("limit", [0, 1, 2, 40, 200, 4096])
@pytest.mark.parametrize("ops", [0, 1, 5, 40])
def test_a_limited_unit_is_a_prefix_of_the_program(limit: int, ops: int) -> None:
    units = Units(CATALOGUE)
    program = generate(random.Random(3), CATALOGUE, ops=30)
    data = units.fit(program, limit, ops)
    assert len(data) <= limit
    if data:
        kept = units.program(data)
        assert kept.ops == program.ops[: len(kept.ops)]
        assert len(kept.ops) <= ops
        assert encode(kept, CATALOGUE) == data


def test_cached_programs_equal_decoded_ones() -> None:
    units = Units(CATALOGUE)
    rng = random.Random(4)
    for _ in range(200):
        data = units.fit(generate(rng, CATALOGUE), 4096, 40)
        assert units.program(data) == decode(data, CATALOGUE)


def test_the_cache_is_bounded() -> None:
    units = Units(CATALOGUE)
    for number in range(KEPT_PROGRAMS * 2 + 5):
        units.program(number.to_bytes(3, "little"))
    assert len(units._decoded) <= KEPT_PROGRAMS


def test_without_seeds_programs_are_generated(tmp_path: Path) -> None:
    job = Job(find_harness("dma"), [], tmp_path / "corpus", tmp_path / "scratch", seed=5)
    first, again = (Units(CATALOGUE).write_seeds(job) for _ in range(2))
    other = Units(CATALOGUE).write_seeds(job._replace(seed=6))
    assert first == again != other
    assert all(encode(decode(path.read_bytes(), CATALOGUE), CATALOGUE) == path.read_bytes() for path in first)
