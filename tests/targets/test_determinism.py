"""The same program gives the same trace: twice in one process, in other processes, and on every Python version."""

import sys
from collections.abc import Callable

import pytest

from hvfuzz.campaign.bench.trace_equality import OtherProcess, lines, sample, shuffled_lines
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

PROGRAMS = 100
SEED = 11


@pytest.fixture(scope="module")
def expected() -> list[str]:
    """The line of each program in this process; the clean hypervisor has no findings."""
    found = list(lines(PROGRAMS, SEED))
    assert all(line.endswith(" []") for line in found)
    return found


def test_a_run_leaves_nothing_behind(expected: list[str]) -> None:
    """In any order, after any other program: the machine starts from the same state."""
    assert shuffled_lines(PROGRAMS, SEED) == expected


def test_oracles_do_not_change_a_run(expected: list[str]) -> None:
    with EmulatedTarget(oracles=frozenset()) as target:
        for number, program in enumerate(sample(PROGRAMS, SEED, target)):
            assert target.run(program, digest=True).trace.digest() == expected[number].split()[0]


@pytest.mark.parametrize("hash_seed", [0, 1, 4711])
def test_another_process_gives_the_same(hash_seed: int, expected: list[str]) -> None:
    assert OtherProcess(sys.executable, hash_seed, PROGRAMS, SEED).lines() == expected


def test_another_python_gives_the_same(expected: list[str], golden: Callable[[str, str], None]) -> None:
    """One Python version wrote the golden file; continuous integration compares it on all versions."""
    golden("traces.txt", "".join(f"{line}\n" for line in expected))
