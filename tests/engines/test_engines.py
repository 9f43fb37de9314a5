"""The engines random, hypothesis and replay. (Atheris ends its process: see test_atheris.)"""

from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.abi.boot import WORLDS
from hvfuzz.bugs import find_bug
from hvfuzz.engines.hypothesis import ROUND
from hvfuzz.guest.format.binary import encode
from hvfuzz.guest.format.text import parse
from hvfuzz.guest.grammar.weight_profiles import TURN
from hvfuzz.guest.program.instruction_kinds import TRAP_FAMILIES
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.guest.program.program import Ref, defect
from hvfuzz.hypervisor.hypercalls import ABI

CATALOGUE = catalogue(ABI)
SEED = "# hvp 1\nworld pair\nr0 = event.alloc(dom1, remote=dom2)\nevent.close(dom1, port=r0)\n"


@pytest.mark.parametrize("engine", ["random", "hypothesis"])
def test_the_same_seed_gives_the_same_programs(engine: str, fuzz: Callable[..., Any]) -> None:
    runs = [fuzz(engine, seed=seed, runs=25).programs for seed in (3, 3, 4)]
    assert len(runs[0]) == 25
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("engine", ["random", "hypothesis"])
def test_programs_are_well_formed_and_differ(engine: str, fuzz: Callable[..., Any]) -> None:
    programs = fuzz(engine, seed=1, runs=200).programs
    assert not [problem for program in programs if (problem := defect(program))]
    assert len(set(programs)) > 180
    assert {program.world for program in programs} == set(range(len(WORLDS)))


@pytest.mark.parametrize("engine", ["random", "hypothesis"])
def test_seeds_are_run_first_and_unchanged(engine: str, fuzz: Callable[..., Any]) -> None:
    program = parse(SEED, CATALOGUE)
    seeds = [SEED.encode(), encode(program, CATALOGUE)]
    assert fuzz(engine, seeds=seeds, runs=5).programs[:2] == [program, program]


@pytest.mark.parametrize("engine", ["random", "hypothesis"])
def test_the_harness_limits_the_ops(engine: str, fuzz: Callable[..., Any]) -> None:
    programs = fuzz(engine, harness="abi", runs=50, seed=2).programs
    families = {op.kind.family for program in programs for op in program.ops}
    assert "raw" in families
    assert not families & {*TRAP_FAMILIES, "tlb"}


@pytest.mark.parametrize(
    ("engine", "bug"),
    [("random", "xsa-100"), ("random", "xsa-155"), ("hypothesis", "pkvm-09cce60bddd"), ("hypothesis", "xsa-155")],
)
def test_planted_bugs_are_found_without_seeds(engine: str, bug: str, fuzz: Callable[..., Any]) -> None:
    outcome = fuzz(engine, bug=bug, seed=1, runs=400)
    assert {identity.split("/")[0] for identity in outcome.identities} >= {find_bug(bug).oracle}


def test_a_finding_does_not_end_the_search(fuzz: Callable[..., Any]) -> None:
    outcome = fuzz("random", bug="xsa-221", seed=1, runs=400)
    assert outcome.identities
    assert outcome.session.runs == 400


def test_replay_runs_each_seed_once_and_ends(fuzz: Callable[..., Any]) -> None:
    trigger = find_bug("xsa-78").trigger
    outcome = fuzz("replay", bug="xsa-78", seeds=[SEED.encode(), trigger.encode()])
    assert outcome.programs == [parse(SEED, CATALOGUE), parse(trigger, CATALOGUE)]
    assert outcome.identities == list(find_bug("xsa-78").findings)


def test_the_state_machine_makes_long_dependent_histories(fuzz: Callable[..., Any]) -> None:
    programs = fuzz("hypothesis", seed=1, runs=110).programs
    histories = [program for program in programs if len(program.ops) > 30]
    assert histories
    dependent = [op for program in histories for op in program.ops if any(isinstance(each, Ref) for each in op.values)]
    assert len(dependent) > len(histories)


@pytest.mark.parametrize(("engine", "runs"), [("random", 2 * TURN), ("hypothesis", ROUND + 40)])
def test_a_rotation_changes_what_programs_are_made_of(fuzz: Callable[..., Any], engine: str, runs: int) -> None:
    usual = fuzz(engine, runs=runs, seed=4)
    turned = fuzz(engine, runs=runs, seed=4, rotate=True)
    assert usual.session.progress().profiles == 1
    assert turned.session.progress().profiles > 1
    assert turned.programs != usual.programs
