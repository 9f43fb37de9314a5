"""Reductions: each variant is well-formed and simpler, so that minimisation terminates."""

from collections.abc import Callable, Iterator
from random import Random

from hvfuzz.campaign.minimise.minimiser import minimise
from hvfuzz.campaign.minimise.reductions import relink, replace_op, serialise_race, simpler_fields, simpler_shapes
from hvfuzz.guest.format.text import parse, render
from hvfuzz.guest.generate.generator import generate
from hvfuzz.guest.mutate.mutation import mutate
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.guest.program.program import Op, Program, Ref, Value, defect
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

CATALOGUE = catalogue(ABI)


def programs(count: int) -> Iterator[Program]:
    """Mutated programs: with races, mangled structs, arrays and references."""
    rng = Random(5)
    for _ in range(count):
        program = generate(rng, CATALOGUE)
        for _ in range(4):
            program = mutate(program, rng, CATALOGUE)
        yield program


def plainness(value: Value) -> int:
    """Complexity of a value. A reference has none: it says where a number comes from."""
    if isinstance(value, Ref):
        return 0
    return value if isinstance(value, int) else sum(1 + plainness(each) for each in value)


def weight(op: Op) -> int:
    """Complexity of an op."""
    mangled = 0 if op.mangle is None else 1 + sum(part is not None for part in op.mangle)
    raced = 0 if op.race is None else 1 + 64 * op.race.point + op.race.number + weight(op.race.op)
    return sum(map(plainness, op.values)) + op.actor.vcpu + mangled + raced


def test_every_variant_is_well_formed_and_has_less() -> None:
    raced = mangled = 0
    for program in programs(40):
        for place, op in enumerate(program.ops):
            raced += op.race is not None
            mangled += op.mangle is not None
            for variants in (simpler_shapes(op), *(simpler_fields(op, field) for field in range(len(op.values)))):
                for variant in variants:
                    # The minimiser skips an identical variant.
                    assert variant == op or weight(variant) < weight(op), (render(program), variant)
                    assert defect(replace_op(program, place, variant)) is None
    assert min(raced, mangled) > 5


def test_what_an_op_can_do_without_is_tried() -> None:
    for program in programs(120):
        for op in program.ops:
            shapes = list(simpler_shapes(op))
            without = {op._replace(race=None), op._replace(mangle=None), op._replace(actor=op.actor._replace(vcpu=0))}
            assert without - {op} <= set(shapes)
            assert (shapes == []) == (without == {op})


def results_used(op: Op) -> list[int]:
    """Indices of the ops whose results `op` and its race use, in order of use."""
    used: list[int] = []
    relink(op, lambda ref: used.append(ref.op) or ref)  # type: ignore[func-returns-value]
    return used


def test_a_race_that_comes_first_moves_what_others_refer_to() -> None:
    moved = 0
    for program in programs(400):
        for place, op in enumerate(program.ops):
            if op.race is None:
                continue
            flat = serialise_race(program, place)
            assert defect(flat) is None
            assert flat.ops[place : place + 2] == (op.race.op, op._replace(race=None))
            for index in range(place + 1, len(program.ops)):
                before, after = results_used(program.ops[index]), results_used(flat.ops[index + 1])
                assert after == [used + (used >= place) for used in before]
                moved += before != after
    assert moved > 5


DRESSED = """\
# hvp 1
world old
race 2: sched.yield(dom2.1)
sched.poll(dom1.1, ports=[], count=1, timeout=0) !version=0x1 !reserved=0x0
"""


def test_races_mangling_worlds_and_vcpus_that_do_not_matter_go(target_of: Callable[..., EmulatedTarget]) -> None:
    small = minimise(parse(DRESSED, CATALOGUE), "host_memory/null/sched.poll", target_of("xsa-221"), seconds=20)
    assert render(small) == "# hvp 1\nworld pair\nsched.poll(dom1, ports=[], count=1, timeout=0)\n"


BALLAST = """\
# hvp 1
world pair
race before write 0: store(dom1.1, gva=DIRECT+0x40000, size=8, value=1)
memory.decrease(dom1, first=0x60, count=1)
race at step 0: dma(dom1, device=0)
memory.protect(dom1, first=0x40, count=200, rights=R)
race before write 2: timer(dom1)
sched.poll(dom1, ports=[], count=1, timeout=0)
"""


def test_races_go_first_and_together(target_of: Callable[..., EmulatedTarget]) -> None:
    tried: list[Program] = []
    program = parse(BALLAST, CATALOGUE)
    target = target_of("xsa-221")
    minimise(program, "host_memory/null/sched.poll", target, on_progress=lambda best, _: tried.append(best))
    assert len(tried[0].ops) == len(program.ops)
    assert not any(op.race for op in tried[0].ops)


OVERRUN = """\
# hvp 1
world pair
device.dma_map(dom1, iova=0, gfn=0x40, count=2, rights=R|W)
race 3: store(dom1.1, gva=DIRECT+0x10400, size=8, value=0xff)
device.dma_batch(dom1, device=0, ring=[1, 0, 0x1000, 8])
"""


def test_a_race_that_matters_stays(target_of: Callable[..., EmulatedTarget]) -> None:
    """The request of XSA-155 grows between check and use; without the concurrency it is refused."""
    target = target_of("xsa-155")
    program = parse(OVERRUN, CATALOGUE)
    identities = {finding.identity for finding in target.run(program).findings}
    (identity,) = [each for each in identities if each.startswith("host_memory/")]
    small = minimise(program, identity, target, seconds=20)
    assert small.ops[-1].race is not None
    assert small.ops[-1].race.op.kind.name == "store"
    assert identity in {finding.identity for finding in target.run(small).findings}
    flat = serialise_race(small, len(small.ops) - 1)
    assert identity not in {finding.identity for finding in target.run(flat).findings}
