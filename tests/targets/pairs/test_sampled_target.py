"""Which programs are run in pairs, and what a run in pairs reports."""

from pathlib import Path
from typing import Final

import pytest

from hvfuzz.bugs import Bug, find_bug
from hvfuzz.guest.format.text import parse
from hvfuzz.targets.harness import HARNESSES, find_harness
from hvfuzz.targets.pairs.pair_target import PairTarget
from hvfuzz.targets.pairs.plans import without_shared_hardware
from hvfuzz.targets.pairs.sampled_target import SampledTarget, is_of_pairs, target_of, target_that_shows

FAULTS: Final = Path(__file__).parents[2] / "oracles" / "noninterference" / "faults"
IDENTITY: Final = "noninterference/time/console.write"


@pytest.fixture(scope="module")
def fault() -> Bug:
    """A call that takes longer the more others have done, and breaks no other rule of an unaudited run."""
    return find_bug(str(FAULTS / "time_by_console.py"))


def test_only_its_own_harness_runs_all_programs_in_pairs() -> None:
    assert [harness.name for harness in HARNESSES.values() if harness.pairs] == ["noninterference"]
    for harness in HARNESSES.values():
        with target_of(harness, None) as target:
            assert isinstance(target, PairTarget if harness.pairs else SampledTarget)


def test_a_finding_is_replayed_where_it_was_found() -> None:
    assert is_of_pairs(IDENTITY)
    assert not is_of_pairs("work/time/console.write")
    assert not is_of_pairs(None)
    with target_that_shows(IDENTITY, None) as pairs, target_that_shows("work/hang/load", None) as judged:
        assert isinstance(pairs, PairTarget)
        assert isinstance(judged, SampledTarget)


def test_the_other_harnesses_run_pairs_in_audited_runs() -> None:
    bug = find_bug(str(FAULTS / "stale_high_half.py"))
    with SampledTarget(bug) as target:
        program = parse(bug.trigger, target.catalogue)
        assert [finding.identity for finding in target.run(program).findings] == list(bug.findings)
        assert target.run(program, audit=False).findings == ()


def test_what_the_oracles_find_is_not_run_in_pairs_unless_it_is_asked_for() -> None:
    bug = find_bug(str(FAULTS / "buckets_of_all.py"))
    for shown in (None, bug.findings[0]):
        with SampledTarget(bug, shown=shown) as target:
            program = parse(bug.trigger, target.catalogue)
            found = [finding.oracle for finding in target.run(program).findings]
            assert found == ["specification", *(["noninterference"] if shown else [])]


def test_an_unaudited_run_finds_what_an_audited_one_does(fault: Bug) -> None:
    """One pair of the audited run's six; over a few programs, each observer has its turn."""
    with PairTarget(fault) as target:
        found = set()
        for padding in range(6):
            program = parse(fault.trigger + "cpuid(dom1, leaf=0)\n" * padding, target.catalogue)
            sample = {finding.identity for finding in target.run(program, audit=False).findings}
            assert sample <= {finding.identity for finding in target.run(program).findings}
            found |= sample
        assert IDENTITY in found


def test_features_and_trace_are_those_of_the_first_run() -> None:
    with PairTarget() as target:
        program = parse("# hvp 1\nworld pair\ncpuid(dom1, leaf=0)\nmemory.populate(dom2)\n", target.catalogue)
        run = target.run(program)
        assert [outcome.op for outcome in run.trace.outcomes] == [0, 1]
        assert run.features
        assert (target.pairs, target.excused) == (6, 0)
        assert run == target.run(program)._replace(trace=run.trace), "the same again"


def test_a_host_that_dies_at_boot_is_reported() -> None:
    def dies(hv: object, domain: object, ram_pages: object) -> None:
        raise RuntimeError("no memory for canaries")

    with PairTarget(Bug("panic", "hvfuzz.hypervisor.core.boot:plant_canaries", dies)) as target:
        program = parse("# hvp 1\nworld pair\ncpuid(dom1, leaf=0)\n", target.catalogue)
        assert target.run(program).trace.stopped == "the host died at boot"


def test_what_two_domains_share_of_the_hardware_is_left_out() -> None:
    with PairTarget() as target:
        text = """\
# hvp 1
world pair
tlb(dom1, capacity=0)
  race 1: store(dom2, gva=DIRECT+0x40000, size=8, value=0)
memory.populate(dom1, first=0x100, count=1, order=0)
  race 1: store(dom1.1, gva=DIRECT+0x40000, size=8, value=0)
memory.populate(dom1, first=0x101, count=1, order=0)
deny(dom2, request=0)
deny(dom1, request=0)
  race 1: evict(dom1.1, cache=TLB, entry=0)
memory.populate(dom1, first=0x102, count=1, order=0)
retain(dom1, cache=TLB, entry=0)
"""
        plain = without_shared_hardware(parse(text, target.catalogue), target.catalogue)
    assert [(op.kind.name, op.race is None) for op in plain.ops] == [
        ("pause", True),
        ("memory.populate", True),
        ("memory.populate", False),
        ("pause", True),
        ("deny", True),
        ("memory.populate", True),
        ("pause", True),
    ]


def test_the_harness_is_found_by_name() -> None:
    assert find_harness("fuzz_noninterference").pairs
