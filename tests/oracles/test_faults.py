"""Faults of the hypervisor, one per file, in the form of planted bugs: the oracles find each of them.

They test the oracles and are not a benchmark for fuzzers: some are found only in audited runs, such as replays.
`findings` names the first finding. A new fault goes to `faults/` only together with an oracle that finds it. Those in
`adversary/` were written by an author who had not seen the oracles: they are the measure.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hvfuzz.bugs import Bug, find_bug
from hvfuzz.guest.format.text import parse
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

FAULTS = sorted(Path(__file__).with_name("faults").glob("*.py"))
ADVERSARY = sorted(Path(__file__).with_name("adversary").glob("*.py"))


@pytest.fixture(scope="module")
def clean() -> Iterator[EmulatedTarget]:
    """The hypervisor without a fault."""
    with EmulatedTarget() as target:
        yield target


@pytest.mark.parametrize("path", FAULTS + ADVERSARY, ids=lambda path: str(path.stem))
def test_the_fault_is_seen_and_the_clean_build_is_silent(path: Path, clean: EmulatedTarget) -> None:
    bug: Bug = find_bug(str(path))
    program = parse(bug.trigger, clean.catalogue)
    assert clean.run(program).findings == ()
    with EmulatedTarget(bug) as faulty:
        findings = faulty.run(program).findings
    assert [finding.identity for finding in findings[:1]] == list(bug.findings)


def test_those_of_an_independent_author_are_all_found() -> None:
    assert len(ADVERSARY) >= 60
    assert [path.stem for path in ADVERSARY if not find_bug(str(path)).findings] == []


def test_they_are_many_and_of_all_parts() -> None:
    bugs = [find_bug(str(path)) for path in FAULTS]
    parts = {bug.replaces.partition(":")[0].rpartition(".")[2] for bug in bugs}
    assert len({bug.name for bug in bugs}) == len(FAULTS) >= 150
    assert {"guest_access", "allocator", "dispatch", "exits", "mappings", "dma", "scheduler", "stage2"} <= parts
    assert {"entries", "copy", "reservation", "assignment", "dma_map"} <= parts
    oracles = {bug.findings[0].partition("/")[0] for bug in bugs}
    assert {"exits", "fetch", "host_memory", "ownership", "recount", "secrets", "specification", "stale"} <= oracles
