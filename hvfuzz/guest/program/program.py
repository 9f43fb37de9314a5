"""A guest program: a world, and ops whose arguments are numbers, results of earlier ops, and arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from hvfuzz.abi.boot import ARG_ARRAYS, ARG_NESTED, WORLDS
from hvfuzz.abi.kinds import Kind
from hvfuzz.abi.layout import Field

if TYPE_CHECKING:
    from hvfuzz.guest.program.ops import OpKind

MAX_OPS: Final = 256
"""Most ops of a program; an op performed as a race is not counted."""
MAX_ELEMENTS: Final = 20
"""Most elements of one array argument."""
MAX_FETCH: Final = 63
"""Largest fetch number that a race may wait for."""
MAX_BATCH: Final = (ARG_NESTED - ARG_ARRAYS) // 32
"""Most ops that one multicall takes as entries, of four words each."""


class Ref(NamedTuple):
    """The result of an earlier op, named by its index in the program. It stands for 0 if that op failed."""

    op: int


Value: TypeAlias = int | Ref | tuple[int | Ref, ...]
"""An argument. For a field whose kind has an `element`, a tuple is the array and a bare int a raw pointer.
For a `follow` field (the entries of a multicall), 0 means "the next `count` ops", and any other int is a raw
pointer with nothing batched."""


class Actor(NamedTuple):
    """Who performs an op: a vCPU of a domain, both counted from 0."""

    domain: int
    vcpu: int


class Mangle(NamedTuple):
    """What is wrong with the argument struct's header or address; None leaves that part as it should be."""

    size: int | None = None
    """u16 written instead of the struct's size in bytes."""
    version: int | None = None
    """u16 written instead of the struct's version."""
    pointer: int | None = None
    """Gva passed in RDI instead of the struct's address."""
    reserved: int | None = None
    """u32 written instead of 0."""


MANGLE_BITS: Final = (16, 16, 64, 32)
"""Width of each part of a Mangle."""


class Race(NamedTuple):
    """An op that another vCPU performs just before the hypervisor's fetch number `fetch` of the raced op."""

    fetch: int
    op: Op


class Op(NamedTuple):
    """One step of a program. `values` has one value for each of `kind.fields`, in that order."""

    kind: OpKind
    actor: Actor
    values: tuple[Value, ...]
    mangle: Mangle | None = None
    race: Race | None = None


class Program(NamedTuple):
    """A world (index into `hvfuzz.abi.boot.WORLDS`) and what its guests do in it."""

    world: int
    ops: tuple[Op, ...]


def is_array(kind: Kind) -> bool:
    """Whether a field of this kind takes a tuple (the elements) or a bare int (a raw pointer)."""
    return kind.element is not None and not kind.follow


def default(field: Field) -> Value:
    """The value of a field that a program leaves out."""
    return () if is_array(field.kind) and not field.default else field.default


def batched(ops: Sequence[Op], index: int) -> int:
    """How many of the ops after `ops[index]` it takes as its entries: the next hypercalls of the same actor.

    At most as many as its `count` says and its array has room for; a multicall is no entry. 0 if it is none
    itself, or has a raw pointer to its entries.
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
    """What makes `program` ill-formed, or None. Every producer of programs promises None."""
    world, ops = program
    if not 0 <= world < len(WORLDS):
        return f"there is no world {world}"
    if len(ops) > MAX_OPS:
        return f"{len(ops)} ops are more than {MAX_OPS}"
    for index, op in enumerate(ops):
        problem = _op_defect(op, index, world)
        if problem is None and op.race is not None:
            fetch, other = op.race
            if not op.kind.fetches:
                problem = "it fetches nothing, so it has no race"
            elif not 0 <= fetch <= MAX_FETCH:
                problem = f"it is raced at fetch {fetch}, beyond {MAX_FETCH}"
            elif other.race is not None:
                problem = "the op of a race is raced itself"
            else:
                problem = _op_defect(other, index, world)
        if problem is not None:
            return f"op {index} ({op.kind.name}): {problem}"
    return None


def _op_defect(op: Op, index: int, world: int) -> str | None:
    kind, actor, values, mangle, _ = op
    domains = WORLDS[world].domains
    if not (0 <= actor.domain < len(domains) and 0 <= actor.vcpu < domains[actor.domain].vcpus):
        return f"there is no vCPU {actor.domain}.{actor.vcpu} in this world"
    if len(values) != len(kind.fields):
        return f"{len(values)} values for {len(kind.fields)} fields"
    for field, value in zip(kind.fields, values, strict=True):
        if not _value_fits(field.kind, value, index):
            return f"{field.name} cannot be {value!r}"
    if mangle is not None:
        if kind.number is None:
            return "it has no struct to mangle"
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
