"""The minimiser: its result is smaller, simpler and well-formed, shows the same finding, and comes quickly."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from hvfuzz.bugs import find_bug
from hvfuzz.campaign.minimise.minimiser import Minimiser, minimise
from hvfuzz.campaign.minimise.reductions import dependents, remove_ops, serialise_race, simpler_values
from hvfuzz.guest.format.text import parse, render
from hvfuzz.guest.generate.generator import generate
from hvfuzz.guest.mutate.mutation import crossover
from hvfuzz.guest.program.instruction_kinds import ADVERSARIES
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.guest.program.program import Program, Ref, defect
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

CATALOGUE = catalogue(ABI)
FAULTS = Path(__file__).parents[2] / "oracles" / "faults"
NOISY = ("xsa-221", "xsa-100", "xsa-78", "xsa-224")


def ballast(trigger: str, seed: int) -> Program:
    """The program with extra ops before, between and after its own."""
    rng = random.Random(seed)
    program = parse(trigger, CATALOGUE)
    while len(program.ops) < 60:
        program = crossover(program, generate(rng, CATALOGUE, worlds=(0,)), rng, CATALOGUE)
    return program


def identities(program: Program, target: EmulatedTarget) -> set[str]:
    """The identities of the findings of a run."""
    return {finding.identity for finding in target.run(program).findings}


@pytest.mark.parametrize("bug", NOISY)
def test_a_program_gets_as_small_as_its_bug_needs(bug: str, target_of: Callable[..., EmulatedTarget]) -> None:
    target, wanted = target_of(bug), find_bug(bug)
    identity = wanted.findings[0]
    seed = next(seed for seed in range(500) if identity in identities(ballast(wanted.trigger, seed), target))
    big = ballast(wanted.trigger, seed)
    work = Minimiser(big, identity, target, lambda: True)
    small = work.run()
    assert identity in identities(small, target)
    assert defect(small) is None
    # No op can be removed, but the program may reach the bug by a longer way than the trigger, for example by the
    # registers of a device instead of a call.
    assert len(small.ops) <= 2 * len(parse(wanted.trigger, CATALOGUE).ops)
    assert not any(op.race or op.mangle for op in small.ops)
    assert parse(render(small), CATALOGUE) == small
    assert work.tried < 1500


def test_the_finding_that_is_kept_can_be_chosen(target_of: Callable[..., EmulatedTarget]) -> None:
    bug = find_bug("xsa-222")
    program = parse(bug.trigger, CATALOGUE)
    small = minimise(program, bug.findings[-1], target_of("xsa-222"), seconds=4)
    assert bug.findings[-1] in identities(small, target_of("xsa-222"))


def test_what_is_minimal_stays(target_of: Callable[..., EmulatedTarget], text: Callable[..., str]) -> None:
    program = parse(text("sched.poll(dom1, ports=[], count=1, timeout=0)"), CATALOGUE)
    assert minimise(program, "host_memory/null/sched.poll", target_of("xsa-221")) == program


def test_no_time_means_no_change(target_of: Callable[..., EmulatedTarget]) -> None:
    program = ballast(find_bug("xsa-221").trigger, 1)
    assert minimise(program, "host_memory/null/sched.poll", target_of("xsa-221"), seconds=0) == program


def test_work_that_is_ended_early_keeps_what_it_has(target_of: Callable[..., EmulatedTarget]) -> None:
    target = target_of("xsa-221")
    seed = next(seed for seed in range(99) if identities(ballast(find_bug("xsa-221").trigger, seed), target))
    program = ballast(find_bug("xsa-221").trigger, seed)
    steps: list[Program] = []
    small = minimise(
        program,
        "host_memory/null/sched.poll",
        target,
        proceed=lambda: len(steps) < 2,
        on_progress=lambda smaller, tried: steps.append(smaller),
    )
    assert small == steps[-1]
    assert len(steps) == 2


def test_what_no_guest_does_is_removed_first(target_of: Callable[..., EmulatedTarget]) -> None:
    trigger = find_bug("xsa-221").trigger
    ops = ["tlb(dom1, capacity=4)", "deny(dom1, request=0)", "retain(dom1, cache=TLB, entry=0)"]
    ops += ["race 1: evict(dom1.1, cache=PAGING, entry=0)", "memory.populate(dom1, first=0x200, count=1, order=0)"]
    magic, world, *rest = trigger.splitlines()
    program = parse("\n".join([magic, world, *ops, *rest]) + "\n", CATALOGUE)
    steps: list[Program] = []
    target = target_of("xsa-221")
    Minimiser(program, "host_memory/null/sched.poll", target, lambda: True, lambda step, _: steps.append(step)).run()
    without = tuple(op for op in program.ops if op.kind.name not in ADVERSARIES)
    assert steps[0].ops == without
    assert steps[1].ops == tuple(op._replace(race=None) for op in without)
    assert len(steps) > 2


def test_one_that_the_finding_needs_stays() -> None:
    bug = find_bug(str(FAULTS / "denied_tables_taken.py"))
    magic, world, *rest = bug.trigger.splitlines()
    ops = ["deny(dom1, request=9)", "tlb(dom1, capacity=64)", "pause(dom1)"]
    program = parse("\n".join([magic, world, *ops, *rest]) + "\n", CATALOGUE)
    steps: list[Program] = []
    with EmulatedTarget(bug) as target:
        Minimiser(program, bug.findings[0], target, lambda: True, lambda step, _: steps.append(step)).run()
    kinds = [[op.kind.name for op in step.ops] for step in steps[:3]]
    assert kinds == [
        ["deny", "pause", "deny", "device.dma_map"],
        ["pause", "deny", "device.dma_map"],
        ["deny", "device.dma_map"],
    ]


CHAIN = """\
# hvp 1
world pair
pause(dom1)
r1 = grant.create(dom1, gfn=0x40, to=dom2, rights=R|W)
r2 = grant.map(dom2, granter=dom1, ref=r1, gfn=0x400, iova=0, flags=HOST)
race 1: store(dom1.1, gva=DIRECT, size=8, value=r2)
grant.unmap(dom2, handle=r2, count=1, flags=HOST)
pause(dom2)
"""


def test_taking_ops_out_keeps_references_right() -> None:
    program = parse(CHAIN, CATALOGUE)
    assert "handle=r1" in render(remove_ops(program, frozenset({0})))
    cut = remove_ops(program, frozenset({1}))
    assert defect(cut) is None
    assert "ref=0" in render(cut)
    assert dependents(program, 1) == {1, 2, 3}
    assert dependents(program, 0) == {0}


def test_a_race_can_be_had_without_concurrency() -> None:
    program = serialise_race(parse(CHAIN, CATALOGUE), 3)
    assert defect(program) is None
    assert [op.kind.name for op in program.ops][3:5] == ["store", "grant.unmap"]
    assert program.ops[3].values[2] == Ref(2)
    assert all(op.race is None for op in program.ops)


@pytest.mark.parametrize("value", [1, 3, 0x40, 0x1234_5678, (1 << 64) - 1, (), (5, 6), (Ref(0), 9)])
def test_plainer_values_are_plainer(value: int | tuple[int | Ref, ...]) -> None:
    for plainer in simpler_values(value):
        if isinstance(value, int):
            assert isinstance(plainer, int)
            assert plainer < value
        else:
            assert isinstance(plainer, tuple)
            assert len(plainer) < len(value) or plainer != value
