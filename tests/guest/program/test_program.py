"""`defect` names what is wrong with an ill-formed program, and in which op."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvfuzz.abi.boot import WORLDS
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import (
    MANGLE_BITS,
    MAX_ELEMENTS,
    MAX_OPS,
    MAX_POINT,
    NOT_RACED,
    Actor,
    Mangle,
    Op,
    Point,
    Program,
    Race,
    Ref,
    Value,
    defect,
    is_array,
    points_of,
)


def damages(op: Op, index: int, world: int, hlt: Op) -> dict[str, Op]:
    """By expected message: `op`, at `index` of its program, broken in each way possible for its kind."""
    domains = WORLDS[world].domains
    domain = op.actor.domain
    broken = {
        f"no vCPU {len(domains)}.0 ": op._replace(actor=Actor(len(domains), 0)),
        "no vCPU -1.0 ": op._replace(actor=Actor(-1, 0)),
        f"no vCPU {domain}.{domains[domain].vcpus} ": op._replace(actor=Actor(domain, domains[domain].vcpus)),
        f"{len(op.values) + 1} values for {len(op.values)} fields": op._replace(values=(*op.values, 0)),
    }
    for place, field in enumerate(op.kind.fields):
        kind = field.kind
        values: list[Value] = [-1, 1 << 8 * kind.width, Ref(index), Ref(-1)]
        if kind.consumes is None and index:
            values.append(Ref(index - 1))
        if is_array(kind):
            assert kind.element is not None
            values += [(0,) * (MAX_ELEMENTS + 1), (1 << 8 * kind.element.width,), (0, Ref(index)), ((),)]  # type: ignore[list-item]
        else:
            values.append((0,))
        for value in values:
            changed = (*op.values[:place], value, *op.values[place + 1 :])
            broken[f"{field.name} cannot be {value!r}"] = op._replace(values=changed)
    if op.kind.number is None:
        broken["it has no argument struct to mangle"] = op._replace(mangle=Mangle(size=4))
    else:
        too_wide = [Mangle(**{name: 1 << bits}) for name, bits in zip(Mangle._fields, MANGLE_BITS, strict=True)]
        for mangle in (Mangle(), *too_wide):
            broken[f"{mangle} is empty or too wide"] = op._replace(mangle=mangle)
    points = points_of(op.kind)
    for point in Point:
        if point in points:
            late = Race(MAX_POINT + 1, hlt, point)
            broken[f"raced at {point.name.lower()} {MAX_POINT + 1}; the last one is 63"] = op._replace(race=late)
        else:
            broken[f"{NOT_RACED[point]}, so it cannot be raced there"] = op._replace(race=Race(0, hlt, point))
    if points:
        raced = Race(0, hlt._replace(race=Race(0, hlt)), points[0])
        broken["the op of its race has a race"] = op._replace(race=raced)
        broken["no vCPU 9.9 "] = op._replace(race=Race(0, hlt._replace(actor=Actor(9, 9)), points[0]))
    return broken


@settings(max_examples=50)
@given(data=st.data())
def test_every_damage_is_named_with_its_op(
    data: st.DataObject, known: Catalogue, programs: st.SearchStrategy[Program]
) -> None:
    program = data.draw(programs.filter(lambda program: program.ops))
    index = data.draw(st.integers(0, len(program.ops) - 1))
    op = program.ops[index]
    hlt = Op(known.by_name["hlt"], op.actor, ())
    for words, broken in damages(op, index, program.world, hlt).items():
        ops = (*program.ops[:index], broken, *program.ops[index + 1 :])
        said = defect(program._replace(ops=ops))
        assert said is not None, words
        assert said.startswith(f"op {index} ({op.kind.name}): ")
        assert words in said


@settings(max_examples=50)
@given(data=st.data())
def test_the_op_of_a_race_is_held_to_the_same(
    data: st.DataObject, own: Catalogue, known: Catalogue, programs: st.SearchStrategy[Program]
) -> None:
    """An op that is ill-formed at some index is ill-formed there as a race, too."""
    program = data.draw(programs.filter(lambda program: program.ops))
    index = data.draw(st.integers(0, len(program.ops) - 1))
    other = program.ops[index]._replace(race=None)
    raced = Op(own.by_name["sched.yield"], other.actor, ())
    hlt = Op(known.by_name["hlt"], other.actor, ())
    before = program.ops[:index]
    assert defect(Program(program.world, (*before, raced._replace(race=Race(0, other))))) is None
    for broken in damages(other, index, program.world, hlt).values():
        if broken.race is None:
            alone = defect(Program(program.world, (*before, broken)))
            race = defect(Program(program.world, (*before, raced._replace(race=Race(0, broken)))))
            assert alone is not None
            assert race is not None
            assert race.partition(": ")[2] == alone.partition(": ")[2]


@pytest.mark.parametrize("world", [-1, len(WORLDS)])
def test_a_world_that_there_is_not(world: int) -> None:
    assert defect(Program(world, ())) == f"world {world} does not exist"


def test_a_program_that_is_too_long(own: Catalogue) -> None:
    hlt = Op(own.by_name["hlt"], Actor(1, 0), ())
    assert defect(Program(0, (hlt,) * MAX_OPS)) is None
    assert defect(Program(0, (hlt,) * (MAX_OPS + 1))) == f"it has {MAX_OPS + 1} ops, more than {MAX_OPS}"
