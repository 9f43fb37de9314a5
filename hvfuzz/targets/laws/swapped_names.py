"""The law of names: where two domains change their numbers, all that happens is the same with the names changed.

The second run has a world whose domains 1 and 2 stand in the other order, with each other's secrets, and a program in
which they have changed places: as actors, and as operands. Which operands name a domain follows from their kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from types import MappingProxyType
from typing import Final

from hvfuzz.abi.boot import WORLDS, World
from hvfuzz.abi.declaration import Declaration
from hvfuzz.abi.kinds import DOMAIN
from hvfuzz.guest.program.ops import Catalogue, OpKind
from hvfuzz.guest.program.program import Mangle, Op, Program, Ref, Value, batched
from hvfuzz.machine.addresses import U64, WORD
from hvfuzz.targets.laws.exemptions import Exemption
from hvfuzz.targets.laws.variant import IDLE, Law, Variant, idle_op, plain, unmoved

NAMES: Final = MappingProxyType({1: 2, 2: 1})
COPIES: Final = frozenset(("grant.copy", "device.dma_submit", "device.dma_batch"))
"""Calls that read memory which no pointer of theirs shows."""
LANE: Final = 0xFFFF
"""Mask of a name."""


def mirrored(world: World) -> World:
    """The world with its domains under the other numbers."""
    places = range(len(world.domains))
    domains = tuple(world.domains[NAMES.get(number, number)] for number in places)
    return world._replace(domains=domains)


MIRRORED: Final = tuple(map(mirrored, WORLDS))


@cache
def name_offsets(declaration: Declaration) -> tuple[int, ...]:
    """Where names of domains are in the argument struct of a call."""
    layout = declaration.layouts[max(declaration.layouts)]
    return tuple(layout.offsets[field.name] for field in layout.fields if field.kind.name == DOMAIN.name)


@cache
def name_places(kind: OpKind) -> tuple[int, ...]:
    """The places of an op's values that name domains."""
    return tuple(at for at, field in enumerate(kind.fields) if field.kind.name == DOMAIN.name)


def swapped(op: Op, catalogue: Catalogue) -> Op:
    """The op with the other names; its names are those that `open_program` leaves."""
    actor = op.actor._replace(domain=NAMES.get(op.actor.domain, op.actor.domain))
    race = None if op.race is None else op.race._replace(op=swapped(op.race.op, catalogue))
    values = list(op.values)
    for at in name_places(op.kind):
        value = values[at]
        if isinstance(value, int):
            values[at] = NAMES.get(value, value)
    called, words = called_by(op, catalogue), values[-1] if values else 0
    if (
        called is not None
        and called.declaration is not None
        and isinstance(words, tuple)
        and not isinstance(words, Ref)
    ):
        values[-1] = swapped_words(words, name_offsets(called.declaration))
    return op._replace(actor=actor, race=race, values=tuple(values))


def swapped_words(words: tuple[int | Ref, ...], offsets: tuple[int, ...]) -> tuple[int | Ref, ...]:
    """The words of a struct with the other names at these offsets."""
    changed = list(words)
    for offset in offsets:
        at, shift = offset // WORD, offset % WORD * 8
        word = changed[at]
        assert isinstance(word, int)
        name = word >> shift & LANE
        changed[at] = word & ~(LANE << shift) | NAMES.get(name, name) << shift
    return tuple(changed)


def renamed(program: Program, catalogue: Catalogue) -> Program:
    """The program with the other names, which `open_program` has made visible."""
    return program._replace(ops=tuple(swapped(op, catalogue) for op in program.ops))


def called_by(op: Op, catalogue: Catalogue) -> OpKind | None:
    """The call that a raw op makes, as far as it can be known."""
    number = op.values[0] if op.kind.family == "raw" else None
    return catalogue.by_code.get(number & U64) if isinstance(number, int) else None


def open_program(program: Program, catalogue: Catalogue) -> Program:
    """The program without calls whose names it does not show, for both runs."""
    entry_of = {at: index for index in range(len(program.ops)) for at in _entries(program, index)}
    batches = [index for index, op in enumerate(program.ops) if op.kind.follow is not None]
    closed = [index for index in batches if _is_closed_batch(program, index)]
    ops = []
    for index, op in enumerate(program.ops):
        if index in closed or _takes_hidden_name(op, catalogue):
            ops.append(idle_op(IDLE, op.actor, catalogue))
            continue
        of_batch = op.kind.follow is not None or (index in entry_of and entry_of[index] not in closed)
        ops.append(_shown(op, catalogue, unraced=of_batch))
    return plain(program._replace(ops=tuple(ops)), catalogue)


def _entries(program: Program, index: int) -> range:
    return range(index + 1, index + 1 + batched(program.ops, index))


def _is_closed_batch(program: Program, index: int) -> bool:
    """Whether the batch may take names from memory: its entries are not shown, or move or read what is near them."""
    entries = [program.ops[at] for at in _entries(program, index)]
    if not entries:
        return True
    return any(name_places(entry.kind) for entry in entries) and any(map(_reads_more, entries))


def _reads_more(op: Op) -> bool:
    raw = (at for at, field in enumerate(op.kind.fields) if field.kind.element is not None)
    pointer = op.mangle is not None and op.mangle.pointer is not None
    return pointer or op.kind.name in COPIES or any(not isinstance(op.values[at], tuple) for at in raw)


def _takes_hidden_name(op: Op, catalogue: Catalogue) -> bool:
    """Whether a raw op makes a call with a name that it takes from memory, or a call that is not known."""
    if op.kind.family != "raw":
        return False
    called = called_by(op, catalogue)
    if called is None or called.declaration is None:
        return isinstance(op.values[0], Ref)
    if called.follow is not None:
        return True
    offsets = name_offsets(called.declaration)
    words: Value = op.values[1] if op.kind.name == "blob" else 0
    if isinstance(words, Ref) or not isinstance(words, tuple):
        return bool(offsets)
    at = [offset // WORD for offset in offsets]
    return any(place >= len(words) or isinstance(words[place], Ref) for place in at)


def _shown(op: Op, catalogue: Catalogue, *, unraced: bool) -> Op:
    called = called_by(op, catalogue)
    named = bool(name_places(op.kind)) or op.kind.follow is not None
    named |= called is not None and called.declaration is not None and bool(name_offsets(called.declaration))
    mangle = op.mangle
    if named and mangle is not None and mangle.pointer is not None:
        mangle = mangle._replace(pointer=None)
        mangle = None if mangle == Mangle() else mangle
    race = op.race
    if race is not None:
        hidden = race.op.kind.follow is not None or _takes_hidden_name(race.op, catalogue)
        if named or unraced or hidden:
            race = None
        else:
            race = race._replace(op=_shown(race.op, catalogue, unraced=True))
    return op._replace(mangle=mangle, race=race)


def _variant(program: Program, catalogue: Catalogue, exempt: frozenset[Exemption]) -> Variant:
    hidden = Exemption.NAMES_IN_MEMORY not in exempt
    first = plain(program, catalogue) if hidden else open_program(program, catalogue)
    change = "in which dom1 and dom2 have changed places and names"
    return Variant(change, first, renamed(first, catalogue), unmoved(first), names=NAMES)


def _variants(program: Program, catalogue: Catalogue, exempt: frozenset[Exemption]) -> Iterator[Callable[[], Variant]]:
    if program.ops:
        yield partial(_variant, program, catalogue, exempt)


LAW: Final = Law("names", "where two domains change names, all else is the same", _variants)
