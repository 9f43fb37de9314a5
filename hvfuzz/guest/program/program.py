"""Guest programs: a world, and ops whose arguments are numbers, references to results of earlier ops, or arrays."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from functools import cache
from typing import Final, NamedTuple, TypeAlias

from hvfuzz.abi.boot import ARG_ARRAYS, ARG_NESTED, WORLDS
from hvfuzz.abi.kinds import Kind
from hvfuzz.abi.layout import Field
from hvfuzz.guest.program.ops import OpKind

MAX_OPS: Final = 256
"""Most ops of a program, not counting ops that are performed as races."""
MAX_ELEMENTS: Final = 20
"""Most elements of one array argument."""
MAX_POINT: Final = 63
"""Largest number of a point at which an op is raced."""
ENTRY_SIZE: Final = 32
"""Bytes of a multicall entry: number, address of the struct, status, result."""
MAX_BATCH: Final = (ARG_NESTED - ARG_ARRAYS) // ENTRY_SIZE
"""Most ops that one multicall takes as entries."""


class Ref(NamedTuple):
    """The result of the earlier op with index `op` in the program; 0 if that op failed."""

    op: int


Value: TypeAlias = int | Ref | tuple[int | Ref, ...]
"""An argument. In an array field, a tuple is the array and an int a raw pointer.
In a `follow` field (the entries of a multicall), 0 means the next `count` ops, and any other int is a raw pointer."""


class Actor(NamedTuple):
    """The vCPU that performs an op: its domain, and its index in the domain, from 0."""

    domain: int
    vcpu: int


class Mangle(NamedTuple):
    """Wrong parts of a call's argument struct; None leaves a part correct."""

    size: int | None = None
    """The header's size, u16."""
    version: int | None = None
    """The header's version, u16."""
    pointer: int | None = None
    """The address of the struct (RDI), a Gva."""
    reserved: int | None = None
    """The header's reserved word, u32."""


MANGLE_BITS: Final = (16, 16, 64, 32)
"""Width in bits of each part of a Mangle."""


class Point(IntEnum):
    """What is counted, from 0, in the raced op to say when its race acts."""

    FETCH = 0
    """Before a fetch of guest memory."""
    WRITE = 1
    """Before a write of the hypervisor to memory."""
    STEP = 2
    """At a preemption point of a long call."""


class Race(NamedTuple):
    """An op that is performed in the middle of the raced op, at its point number `number`.

    Another vCPU performs it, or it is one that no vCPU performs: a device that acts by itself, or time that passes.
    """

    number: int
    op: Op
    point: Point = Point.FETCH


class Op(NamedTuple):
    """One step of a program. `values` has one value for each of `kind.fields`, in that order."""

    kind: OpKind
    actor: Actor
    values: tuple[Value, ...]
    mangle: Mangle | None = None
    race: Race | None = None


class Program(NamedTuple):
    """A world (index into `hvfuzz.abi.boot.WORLDS`) and the ops of its guests."""

    world: int
    ops: tuple[Op, ...]


NOT_RACED: Final = {
    Point.FETCH: "it fetches no guest memory",
    Point.WRITE: "the hypervisor writes nothing for it",
    Point.STEP: "it has no preemption points",
}
"""Why an op is not raced at a point."""


@cache
def points_of(kind: OpKind) -> tuple[Point, ...]:
    """The points at which an op of this kind can be raced."""
    has = {Point.FETCH: kind.fetches, Point.WRITE: kind.writes, Point.STEP: kind.long}
    return tuple(point for point, reached in has.items() if reached)


def is_array(kind: Kind) -> bool:
    """Whether a field of this kind takes a tuple of elements (or an int, as a raw pointer)."""
    return kind.element is not None and not kind.follow


def default(field: Field) -> Value:
    """The value of a field that the text form omits."""
    return () if is_array(field.kind) and not field.default else field.default


def batched(ops: Sequence[Op], index: int) -> int:
    """Number of ops after `ops[index]` that are its entries: the next hypercalls of its actor, multicalls excepted.

    At most its `count` and MAX_BATCH. 0 if the op is no multicall, or has a raw pointer to its entries.
    """
    kind, actor, values, _, _ = ops[index]
    if kind.follow is None or values[kind.follow] != 0:
        return 0
    count = values[kind.index["count"]]
    last = index + (min(count, MAX_BATCH) if isinstance(count, int) else 0)
    following = index + 1
    while following <= last and following < len(ops):
        entry = ops[following]
        if entry.kind.number is None or entry.kind.follow is not None or entry.actor != actor:
            break
        following += 1
    return following - index - 1


def defect(program: Program) -> str | None:
    """Why `program` is ill-formed; None if it is well-formed. Parser, decoder, generator and mutators ensure None."""
    world, ops = program
    if not 0 <= world < len(WORLDS):
        return f"world {world} does not exist"
    if len(ops) > MAX_OPS:
        return f"it has {len(ops)} ops, more than {MAX_OPS}"
    for index, op in enumerate(ops):
        problem = _op_defect(op, index, world)
        if problem is None and op.race is not None:
            number, other, point = op.race
            if point not in points_of(op.kind):
                problem = f"{NOT_RACED[point]}, so it cannot be raced there"
            elif not 0 <= number <= MAX_POINT:
                problem = f"it is raced at {point.name.lower()} {number}; the last one is {MAX_POINT}"
            elif other.race is not None:
                problem = "the op of its race has a race"
            else:
                problem = _op_defect(other, index, world)
        if problem is not None:
            return f"op {index} ({op.kind.name}): {problem}"
    return None


def _op_defect(op: Op, index: int, world: int) -> str | None:
    kind, actor, values, mangle, _ = op
    domains = WORLDS[world].domains
    if not (0 <= actor.domain < len(domains) and 0 <= actor.vcpu < domains[actor.domain].vcpus):
        return f"no vCPU {actor.domain}.{actor.vcpu} in this world"
    if len(values) != len(kind.fields):
        return f"it has {len(values)} values for {len(kind.fields)} fields"
    for field, value in zip(kind.fields, values, strict=True):
        if not _value_fits(field.kind, value, index):
            return f"{field.name} cannot be {value!r}"
    if mangle is not None:
        if kind.number is None:
            return "it has no argument struct to mangle"
        parts = [(part, bits) for part, bits in zip(mangle, MANGLE_BITS, strict=True) if part is not None]
        if not parts or any(not 0 <= part < 1 << bits for part, bits in parts):
            return f"{mangle} is empty or too wide"
    return None


def _value_fits(kind: Kind, value: Value, index: int) -> bool:
    if isinstance(value, Ref):
        return kind.consumes is not None and 0 <= value.op < index
    if isinstance(value, int):
        return 0 <= value < 1 << 8 * kind.width
    element = kind.element
    if element is None or kind.follow or len(value) > MAX_ELEMENTS:
        return False
    return all(isinstance(each, int | Ref) and _value_fits(element, each, index) for each in value)
