"""Faults that an ordinary run shows by a race in the middle of a change, or at a preemption point, and only so."""

from pathlib import Path

import pytest

from hvfuzz.bugs import find_bug
from hvfuzz.guest.format.text import parse
from hvfuzz.guest.program.program import Point
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

FAULTS = Path(__file__).with_name("faults")
SEEN = {
    "raced_grant_open_for_a_moment": (Point.WRITE, "ownership/access/grant.map"),
    "raced_flushed_before_cleared": (Point.WRITE, "stale/tlb/memory.decrease"),
    "raced_iotlb_flushed_first": (Point.WRITE, "stale/iotlb/device.dma_unmap"),
    "raced_entry_read_after_preemption": (Point.STEP, "fetch/asked/sched.yield"),
    "raced_count_below_zero": (Point.WRITE, "exits/registers/rdmsr"),
}


def test_each_of_them_is_here() -> None:
    assert sorted(SEEN) == sorted(path.stem for path in FAULTS.glob("raced_*.py"))


@pytest.mark.parametrize("name", SEEN)
def test_the_race_shows_it(name: str) -> None:
    """In an ordinary run. Without the race nothing is seen, and the clean hypervisor is silent with it."""
    point, identity = SEEN[name]
    bug = find_bug(str(FAULTS / f"{name}.py"))
    with EmulatedTarget() as clean, EmulatedTarget(bug) as faulty:
        program = parse(bug.trigger, clean.catalogue)
        assert [op.race.point for op in program.ops if op.race is not None] == [point]
        alone = program._replace(ops=tuple(op._replace(race=None) for op in program.ops))
        for audit in (False, True):
            assert clean.run(program, audit=audit).findings == ()
        assert faulty.run(alone, audit=False).findings == ()
        assert faulty.run(program, audit=False).findings[0].identity == identity
