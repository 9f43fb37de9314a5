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
from hvfuzz.oracles.framework.all_oracles import NAMES
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

FAULTS = sorted(Path(__file__).with_name("faults").glob("*.py"))
ADVERSARY = sorted(Path(__file__).with_name("adversary").glob("*.py"))

#: Oracle -> a fault that no other oracle finds. The audit has none: it judges the other oracles.
ALONE = {
    "host_memory": "faults/duplicate_gfns.py",
    "principal": "faults/fetch_ignores_nx.py",
    "fetch": "faults/number_truncated.py",
    "exits": "faults/available_entry_before_index.py",
    "work": "faults/protect_in_one_step.py",
    "ownership": "faults/context_pass_through.py",
    "stale": "faults/invlpg_spares_globals.py",
    "recount": "faults/merge_leaks_table.py",
    "secrets": "faults/boot_leaves_a_secret.py",
    "specification": "faults/batch_of_one.py",
    "contents": "../../hvfuzz/bugs/dma/cve_2023_4969.py",
}


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


def test_no_oracle_but_the_audit_lacks_a_fault_of_its_own() -> None:
    assert {*NAMES} - {*ALONE} == {"audit"}


@pytest.mark.parametrize("oracle", ALONE)
def test_a_fault_that_one_oracle_alone_finds(oracle: str) -> None:
    bug: Bug = find_bug(str(Path(__file__).parent / ALONE[oracle]))
    with EmulatedTarget(bug) as faulty:
        findings = faulty.run(parse(bug.trigger, faulty.catalogue)).findings
    assert {finding.oracle for finding in findings} == {oracle}


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
