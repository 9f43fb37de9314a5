"""The byte form of programs, for fuzzers: any bytes are a program, and each program has one encoding.

    program   world, then ops to the end; an op that the end cuts short is filled up with zeros
    op        opcode, actor, extras, its values, then mangle (extras bit 0), then race (extras bit 1)
    number    as wide as its kind, little-endian
    consumer  tag, then a number: with tag 0 itself, with 1 the result of the n-th last producer of what it
              consumes, with 2 the result of the n-th last op
    array     length, then its elements; length 31: a raw pointer
    mangle    mask of its parts, then those parts
    race      fetch, then an op without race

Every byte is folded (by remainder) to what it can mean, so that a changed byte changes that one thing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from functools import lru_cache
from operator import itemgetter
from struct import Struct
from typing import Any, Final

from hvfuzz.abi.boot import WORLDS
from hvfuzz.abi.kinds import Kind
from hvfuzz.guest.ops import ANY_RESOURCE, Catalogue, OpKind
from hvfuzz.guest.program import (
    MAX_ELEMENTS,
    MAX_FETCH,
    MAX_OPS,
    Actor,
    Mangle,
    Op,
    Program,
    Race,
    Ref,
    Value,
    is_array,
)
from hvfuzz.guest.text import MAGIC, TextError, parse

_FORMAT: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
_RAW_POINTER: Final = 31
_LITERAL, _PRODUCER, _ANY_OP = 0, 1, 2
_EXTRAS: Final = 32
"""Extras bytes from here on mean 0: races and mangled structs stay the exception in random bytes."""
_MANGLED, _RACED = 1, 2
_MANGLE_PARTS: Final = tuple(Struct("<" + code) for code in "HHQI")
_TEXT: Final = MAGIC.encode().rstrip()

_Producers = dict[str, list[int]]
"""For each resource, the indices of the ops so far that produce it."""

# A NamedTuple's own constructor takes twice as long as this.
_tuple: Callable[..., Any] = tuple.__new__


class _Run:
    """Numbers of fixed width one after another, some of them with a tag before them."""

    __slots__ = ("consumers", "pack", "pick", "plain", "size", "unpack")

    def __init__(self, kinds: list[Kind]) -> None:
        layout = "<"
        picked: list[int] = []
        consumers: list[tuple[int, int, str]] = []
        for position, kind in enumerate(kinds):
            if kind.consumes is not None:
                consumers.append((position, len(picked) + len(consumers), kind.consumes))
                layout += "B"
            picked.append(position + len(consumers))
            layout += _FORMAT[kind.width]
        struct = Struct(layout)
        self.size = struct.size
        self.unpack = struct.unpack_from
        self.pack = struct.pack
        self.plain = not consumers
        self.consumers = tuple(consumers)
        """Of each consumer: position among the values, position of the tag among the numbers, resource."""
        # itemgetter of one position gives no tuple.
        one = slice(picked[0], None) if picked else slice(0, 0)
        self.pick: Callable[[tuple[int, ...]], tuple[int, ...]] = (
            itemgetter(*picked) if len(picked) > 1 else itemgetter(one)
        )

    def decode(self, data: bytes, at: int, index: int, producers: _Producers) -> tuple[int | Ref, ...]:
        numbers = self.unpack(data, at)
        if self.plain:
            return numbers
        values: list[int | Ref] | None = None
        for position, tag_at, resource in self.consumers:
            tag = numbers[tag_at] & 3
            if tag == _LITERAL:
                continue
            back = numbers[tag_at + 1]
            if tag == _ANY_OP:
                if not index:
                    continue
                target = index - 1 - back % index
            else:
                sources = producers.get(resource)
                if not sources:
                    continue
                target = sources[-1 - back % len(sources)]
            if values is None:
                values = list(self.pick(numbers))
            values[position] = _tuple(Ref, (target,))
        return self.pick(numbers) if values is None else tuple(values)

    def encode(self, values: tuple[Any, ...], index: int, producers: _Producers) -> bytes:
        if self.plain:
            return self.pack(*values)
        numbers = list(values)
        for position, tag_at, resource in self.consumers:
            value = values[position]
            if not isinstance(value, Ref):
                numbers.insert(tag_at, _LITERAL)
                continue
            target = value.op
            sources = producers.get(resource, ())
            place = bisect_left(sources, target)
            if place < len(sources) and sources[place] == target:
                numbers[tag_at : tag_at + 1] = _PRODUCER, len(sources) - 1 - place
            else:
                numbers[tag_at : tag_at + 1] = _ANY_OP, index - 1 - target
        return self.pack(*numbers)


class _Array:
    """An array of at most MAX_ELEMENTS elements: one run for each length."""

    __slots__ = ("runs",)

    def __init__(self, kind: Kind) -> None:
        elements = [kind.element_at(position) for position in range(MAX_ELEMENTS)]
        self.runs = tuple(_Run(elements[:length]) for length in range(MAX_ELEMENTS + 1))


_POINTER: Final = Struct("<Q")


class _Layout:
    """How the values of one kind of op are laid out."""

    __slots__ = ("kind", "longest", "mangles", "parts", "raced", "resources", "run")

    def __init__(self, kind: OpKind) -> None:
        self.kind = kind
        self.mangles = kind.number is not None
        self.raced = kind.fetches
        self.resources = () if kind.produces is None else (kind.produces, ANY_RESOURCE)
        parts: list[_Run | _Array] = []
        scalars: list[Kind] = []
        for field in kind.fields:
            if is_array(field.kind):
                parts.append(_Run(scalars))
                parts.append(_Array(field.kind))
                scalars = []
            else:
                scalars.append(field.kind)
        parts.append(_Run(scalars))
        self.parts = tuple(parts)
        self.run = parts[0] if len(parts) == 1 and isinstance(parts[0], _Run) else None
        """All of it, if it has no array."""
        self.longest = sum(part.size if isinstance(part, _Run) else 1 + part.runs[-1].size for part in parts)

    def decode(self, data: bytes, at: int, index: int, producers: _Producers) -> tuple[tuple[Value, ...], int]:
        values: list[Value] = []
        for part in self.parts:
            if isinstance(part, _Run):
                if part.size:
                    values += part.decode(data, at, index, producers)
                    at += part.size
                continue
            length = data[at] & 31
            at += 1
            if length == _RAW_POINTER:
                values += _POINTER.unpack_from(data, at)
                at += _POINTER.size
            else:
                run = part.runs[length if length <= MAX_ELEMENTS else length - MAX_ELEMENTS]
                values.append(run.decode(data, at, index, producers))
                at += run.size
        return tuple(values), at

    def encode(self, values: tuple[Any, ...], index: int, producers: _Producers) -> bytes:
        if self.run is not None:
            return self.run.encode(values, index, producers)
        out = b""
        done = 0
        for part in self.parts:
            if isinstance(part, _Run):
                width = len(values) if part is self.parts[-1] else done
                while width < len(values) and not is_array(self.kind.fields[width].kind):
                    width += 1
                out += part.encode(values[done:width], index, producers)
                done = width
            else:
                value = values[done]
                done += 1
                if isinstance(value, int):
                    out += bytes((_RAW_POINTER,)) + _POINTER.pack(value)
                else:
                    out += bytes((len(value),)) + part.runs[len(value)].encode(value, index, producers)
        return out


class _Codec:
    """What decoding looks up, for one catalogue."""

    __slots__ = ("actors", "by_kind", "layouts", "numbers", "zeros")

    def __init__(self, catalogue: Catalogue) -> None:
        by_code = {kind.code: _Layout(kind) for kind in catalogue.kinds}
        folded = tuple(by_code.values())
        self.layouts = tuple(by_code.get(code) or folded[code % len(folded)] for code in range(256))
        self.by_kind = {layout.kind: layout for layout in folded}
        # Opcode to extras of an op and of its race, their values and mangles.
        self.zeros = bytes(2 * (3 + 17 + 1 + max(layout.longest for layout in folded)))
        actors = [
            [Actor(domain, vcpu) for domain, each in enumerate(world.domains) for vcpu in range(each.vcpus)]
            for world in WORLDS
        ]
        self.actors = tuple(tuple(some[byte % len(some)] for byte in range(256)) for some in actors)
        self.numbers = tuple({actor: number for number, actor in enumerate(some)} for some in actors)


_codec = lru_cache(maxsize=8)(_Codec)


def decode(data: bytes, catalogue: Catalogue) -> Program:
    """The program that `data` is, in text if it begins like text and parses, else in bytes. Never raises."""
    if data.startswith(_TEXT):
        try:
            return parse(data.decode(), catalogue)
        except (TextError, UnicodeDecodeError):
            pass
    codec = _codec(catalogue)
    end = len(data)
    world = data[0] % len(WORLDS) if data else 0
    data = bytes(data) + codec.zeros
    layouts, actors = codec.layouts, codec.actors[world]
    producers: _Producers = {}
    ops: list[Op] = []
    at = 1
    index = 0
    while at < end and index < MAX_OPS:
        layout = layouts[data[at]]
        actor = actors[data[at + 1]]
        extras = data[at + 2]
        run = layout.run
        values: tuple[Value, ...]
        if run is None:
            values, at = layout.decode(data, at + 3, index, producers)
        else:
            values = run.decode(data, at + 3, index, producers)
            at += 3 + run.size
        mangle = race = None
        if 0 < extras < _EXTRAS:
            if extras & _MANGLED and layout.mangles:
                mangle, at = _decode_mangle(data, at)
            if extras & _RACED and layout.raced:
                race, at = _decode_race(data, at, index, producers, layouts, actors)
        ops.append(_tuple(Op, (layout.kind, actor, values, mangle, race)))
        for resource in layout.resources:
            producers.setdefault(resource, []).append(index)
        index += 1
    return Program(world, tuple(ops))


def _decode_race(
    data: bytes,
    at: int,
    index: int,
    producers: _Producers,
    layouts: tuple[_Layout, ...],
    actors: tuple[Actor, ...],
) -> tuple[Race, int]:
    fetch = data[at] & MAX_FETCH
    layout = layouts[data[at + 1]]
    actor = actors[data[at + 2]]
    extras = data[at + 3]
    values, at = layout.decode(data, at + 4, index, producers)
    mangle = None
    if extras < _EXTRAS and extras & _MANGLED and layout.mangles:
        mangle, at = _decode_mangle(data, at)
    return Race(fetch, Op(layout.kind, actor, values, mangle)), at


def _decode_mangle(data: bytes, at: int) -> tuple[Mangle | None, int]:
    mask = data[at] & 15
    at += 1
    if not mask:
        return None, at
    parts: list[int | None] = [None] * 4
    for number, struct in enumerate(_MANGLE_PARTS):
        if mask >> number & 1:
            parts[number] = struct.unpack_from(data, at)[0]
            at += struct.size
    return Mangle(*parts), at


def encode(program: Program, catalogue: Catalogue) -> bytes:
    """The canonical bytes of a well-formed program: `decode(encode(p)) == p`."""
    codec = _codec(catalogue)
    by_kind, numbers = codec.by_kind, codec.numbers[program.world]
    producers: _Producers = {}
    out = [bytes((program.world,))]
    for index, op in enumerate(program.ops):
        kind, actor, values, mangle, race = op
        layout = by_kind[kind]
        extras = (mangle is not None and _MANGLED) | (race is not None and _RACED)
        out.append(bytes((kind.code, numbers[actor], extras)))
        out.append(layout.encode(values, index, producers))
        if mangle is not None:
            out.append(_encode_mangle(mangle))
        if race is not None:
            other = race.op
            out.append(bytes((race.fetch, other.kind.code, numbers[other.actor], other.mangle is not None)))
            out.append(by_kind[other.kind].encode(other.values, index, producers))
            if other.mangle is not None:
                out.append(_encode_mangle(other.mangle))
        for resource in layout.resources:
            producers.setdefault(resource, []).append(index)
    return b"".join(out)


def _encode_mangle(mangle: Mangle) -> bytes:
    parts = [(number, part) for number, part in enumerate(mangle) if part is not None]
    mask = sum(1 << number for number, _ in parts)
    return bytes((mask,)) + b"".join(_MANGLE_PARTS[number].pack(part) for number, part in parts)
