"""The cycle account of a run sums up to its clock, knows every place that charges, and changes nothing in the run."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvfuzz.bugs import Bug
from hvfuzz.campaign.bench.trace_equality import sample
from hvfuzz.campaign.seed_corpus import read_entries
from hvfuzz.guest.format.text import parse, render_op
from hvfuzz.guest.program.program import Program
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.hypercalls import sched
from hvfuzz.machine.clock import DOCUMENTED, MEASURED, ORDER, Cost
from hvfuzz.targets.emulated.cycle_account import CAUSES, ENTRIES, EXITS, HITS, KINDS, OTHERS, WALKS, CycleAccount
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

ROOT = Path(__file__).parents[3]


def charging(tree: ast.AST, outer: str = "") -> Iterator[str]:
    """Qualified names of the functions that add to an attribute `cycles`."""
    for node in ast.iter_child_nodes(tree):
        name = outer
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            name = f"{outer}.{node.name}".lstrip(".")
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Attribute) and node.target.attr == "cycles":
            yield outer
        yield from charging(node, name)


def test_every_place_that_charges_the_clock_has_a_cause() -> None:
    found = {
        name
        for layer in ("machine", "hypervisor")
        for path in (ROOT / "hvfuzz" / layer).rglob("*.py")
        for name in charging(ast.parse(path.read_text()))
    }
    assert found == set(CAUSES)


@pytest.fixture(scope="module")
def programs() -> list[Program]:
    """The corpus, and 100 generated programs."""
    with EmulatedTarget() as target:
        folders = sorted((ROOT / "corpus").iterdir())
        return [entry.program for entry in read_entries(folders, target.catalogue)] + sample(100, 3, target)


def test_the_account_adds_up_and_watching_changes_nothing(programs: list[Program]) -> None:
    costs = CycleAccount(render_op)
    with (
        EmulatedTarget(oracles=frozenset()) as plain,
        EmulatedTarget(oracles=frozenset(), observer=costs) as accounted,
    ):
        kinds = set()
        for program in programs:
            run = accounted.run(program, digest=True)
            assert run.trace.digest() == plain.run(program, digest=True).trace.digest()
            system = accounted.system(program.world)
            end = system.machine.clock.cycles
            system.restore()
            assert sum(op.total for op in costs.ops) == end - system.machine.clock.cycles
            for op in costs.ops:
                kinds |= set(op.kinds)
                assert OTHERS not in op.kinds
                assert op.text == render_op(program.ops[op.op])
    assert kinds == set(KINDS) - {OTHERS}


def test_the_cost_table_is_complete_and_names_its_sources() -> None:
    constants = {name: value for name, value in vars(Cost).items() if name.isupper()}
    assert constants == {name: figure.cycles for name, figure in Cost.figures.items()}
    assert {type(value) for value in constants.values()} == {int}, "plain numbers: they are added at every access"
    for figure in Cost.figures.values():
        assert figure.what
        assert figure.source
        assert figure.certainty in (DOCUMENTED, MEASURED, ORDER)


def test_an_exit_and_a_walk_cost_what_the_table_says() -> None:
    costs = CycleAccount(render_op)
    with EmulatedTarget(oracles=frozenset(), observer=costs) as target:
        text = "# hvp 1\nworld pair\ncpuid(dom1, leaf=0)\nload(dom1, gva=DIRECT+0x41000, size=8)\n"
        target.run(parse(text, target.catalogue))
    first, second = costs.ops
    assert first.kinds == {EXITS: Cost.VMEXIT, ENTRIES: Cost.VMENTRY}
    # The walk reads the last entry of the guest's tables and that of the EPT; the caches have both tables.
    assert second.kinds == {WALKS: 2 * Cost.WALK_REFERENCE, HITS: 2 * Cost.TLB_HIT}


def test_what_a_planted_bug_charges_is_others() -> None:
    def slow(self: sched.EndSlice, hv: Hypervisor) -> None:
        """Charge 7 cycles more."""
        hv.machine.clock.cycles += 7

    costs = CycleAccount(render_op)
    bug = Bug("slow", "hvfuzz.hypervisor.hypercalls.sched:EndSlice.apply", slow)
    with EmulatedTarget(bug, oracles=frozenset(), observer=costs) as target:
        target.run(parse("# hvp 1\nworld pair\nsched.yield(dom1)\n", target.catalogue))
    assert costs.ops[0].kinds[OTHERS] == 7
