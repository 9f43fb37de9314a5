"""A flush that is left out because another cache is empty shows once an entry of that cache was lost, and only then."""

from pathlib import Path

import pytest

from hvfuzz.bugs import find_bug
from hvfuzz.guest.format.text import parse
from hvfuzz.guest.program.instruction_kinds import ADVERSARIES
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

FAULTS = Path(__file__).parents[1] / "faults"
CASES = {
    "context_kept_without_translations": "stale/context/device.deassign",
    "translations_kept_without_context": "stale/iotlb/device.deassign",
    "table_of_a_lost_page": "stale/structure/memory.decrease",
    "translation_of_a_lost_entry": "stale/tlb/memory.decrease",
}


@pytest.mark.parametrize("name", CASES)
def test_it_takes_the_loss_of_an_entry(name: str) -> None:
    bug = find_bug(str(FAULTS / f"{name}.py"))
    with EmulatedTarget(bug) as target:
        program = parse(bug.trigger, target.catalogue)
        kept = program._replace(ops=tuple(op for op in program.ops if op.kind.name not in ADVERSARIES))
        assert len(kept.ops) == len(program.ops) - 1
        assert target.run(kept).findings == ()
        # As in most runs of a campaign: nothing is judged but what is cached.
        assert target.run(program, audit=False).findings[0].identity == CASES[name]
