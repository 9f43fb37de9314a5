"""Every shipped seed is canonical text, gives no findings, and behaves as its comments say.

A seed starts with a comment that describes it. An op without a comment is expected to succeed. A comment that starts
with an arrow states another outcome, up to the first colon; the rest is for people:

    grant.revoke(dom1, ref=r1)  # -> BUSY: it is mapped
    load(dom1, gva=0x401000, size=8)  # -> 0x41
    store(dom1, gva=0x401000, size=8, value=0)  # -> PF 7

The outcome is a status of the contract; or the result of a success; or an exception with an optional error code; or
`skipped` if the vCPU waits; or `any` if it does not matter.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from hvfuzz.abi.boot import WORLDS
from hvfuzz.abi.status import Status
from hvfuzz.guest.format.binary import decode, encode
from hvfuzz.guest.format.text import parse, render
from hvfuzz.guest.program.program import Op, Program
from hvfuzz.guest.run.trace import Outcome, Result
from hvfuzz.machine.cpu.faults import Vector
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget
from hvfuzz.targets.harness import HARNESSES
from hvfuzz.targets.target import Run

CORPUS: Final = Path(__file__).parents[2] / "corpus"
SEEDS: Final = sorted(CORPUS.glob("*/*.hvp"))
FEWEST: Final = 40
ARROW: Final = "->"
ROOM: Final = 4096
"""Length in bytes of the longest input that the engines do not truncate."""


@pytest.fixture(scope="module")
def target() -> Iterator[EmulatedTarget]:
    """The hypervisor without a bug, all oracles on."""
    with EmulatedTarget() as emulated:
        yield emulated


@pytest.fixture(scope="module")
def runs(target: EmulatedTarget) -> dict[Path, tuple[Program, Run]]:
    """Every seed with its run."""
    programs = {path: parse(path.read_text(), target.catalogue) for path in SEEDS}
    return {path: (program, target.run(program)) for path, program in programs.items()}


def lines_of(text: str) -> list[tuple[str, str]]:
    """(code, comment) of each line that has code; the magic line is code."""
    first, *rest = text.splitlines()
    pairs = [(first, "")]
    for line in rest:
        code, _, comment = line.partition("#")
        if code.strip():
            pairs.append((code.rstrip(), comment.strip()))
    return pairs


def endings(text: str) -> list[str]:
    """The expected outcome of each op of a seed, from its comment; empty if the comment states none."""
    said = []
    for code, comment in lines_of(text)[2:]:
        if not code.lstrip().startswith("race "):
            said.append(comment.removeprefix(ARROW).partition(":")[0].strip() if comment.startswith(ARROW) else "")
    return said


def own_outcome(op: Op, index: int, outcomes: list[Outcome]) -> Outcome:
    """The outcome of the op itself; the outcome of its race may come before or after it."""
    mine = [each for each in outcomes if each.op == index and (op.race is None or each.code == op.kind.code)]
    return mine[-1]


def is_ending(said: str, outcome: Outcome) -> bool:
    """Whether the outcome of an op matches its comment."""
    if said == "any":
        return True
    if outcome.how == Result.SKIPPED:
        return said == "skipped"
    if outcome.how == Result.FAULT:
        name = Vector(outcome.status).name
        return said in (name, f"{name} {outcome.result}")
    if outcome.status or said in Status.__members__:
        return said == Status(outcome.status).name
    return not said or (said[0].isdigit() and int(said, 0) == outcome.result)


def test_every_harness_has_seeds() -> None:
    assert {path.parent.name for path in SEEDS} == set(HARNESSES)
    assert len(SEEDS) >= FEWEST
    assert len({path.name for path in SEEDS}) == len(SEEDS), "one folder can be merged into another"


@pytest.mark.parametrize("path", SEEDS, ids=lambda path: f"{path.parent.name}/{path.stem}")
class TestSeed:
    """Each seed."""

    def test_is_canonical_text(self, path: Path, target: EmulatedTarget) -> None:
        text = path.read_text()
        program = parse(text, target.catalogue)
        assert render(program).splitlines() == [code for code, _ in lines_of(text)]
        assert text.splitlines()[1].startswith("# "), "a story opens by saying what happens"

    def test_fits_a_fuzzing_engine(self, path: Path, target: EmulatedTarget) -> None:
        program = parse(path.read_text(), target.catalogue)
        data = encode(program, target.catalogue)
        assert len(data) <= ROOM
        assert decode(data, target.catalogue) == program

    def test_is_clean_and_does_what_it_says(self, path: Path, runs: dict[Path, tuple[Program, Run]]) -> None:
        program, run = runs[path]
        assert run.findings == ()
        assert run.trace.stopped == ""
        outcomes = run.trace.outcomes
        for index, (op, said) in enumerate(zip(program.ops, endings(path.read_text()), strict=True)):
            outcome = own_outcome(op, index, outcomes)
            assert is_ending(said, outcome), f"op {index} ({op.kind.name}): {said or 'success'}, not {outcome}"


def test_every_kind_of_op_appears(target: EmulatedTarget, runs: dict[Path, tuple[Program, Run]]) -> None:
    seen = {op.kind.name for program, _ in runs.values() for op in program.ops}
    assert seen == {kind.name for kind in target.catalogue.kinds}


def test_every_hypercall_ends_in_every_way(target: EmulatedTarget, runs: dict[Path, tuple[Program, Run]]) -> None:
    """The seeds reach OK and every declared error of each call, so a fuzzer starts behind every check."""
    seen = {
        (outcome.code, outcome.status)
        for _, run in runs.values()
        for outcome in run.trace.outcomes
        if outcome.how == Result.OK
    }
    missing = [
        f"{kind.name}: {status.name}"
        for kind in target.catalogue.kinds
        if kind.declaration is not None
        for status in (Status.OK, *kind.declaration.errors)
        if (kind.code, int(status)) not in seen
    ]
    assert missing == []


def test_every_world_is_used(runs: dict[Path, tuple[Program, Run]]) -> None:
    assert {program.world for program, _ in runs.values()} == set(range(len(WORLDS)))
