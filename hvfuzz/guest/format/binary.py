"""The byte form of programs, for fuzzers: any bytes decode to a program, and each program has one encoding.

    program   world, then ops to the end; an op that is cut short is filled up with zeros
    op        opcode, actor, extras, its values, then mangle (extras bit 0), then race (extras bit 1)
    number    of the width of its kind, little-endian
    consumer  tag, then a number n. Tag 0: n itself; 1: the result of the n-th last op that produces the resource;
              2: the result of the n-th last op
    array     length, then its elements; length 31: a raw pointer
    mangle    mask of its parts, then these parts
    race      number of the point in bits 0 to 5, kind of the point in bits 6 and 7, then an op without race

The decoder reduces each byte, by remainder, to a value that its field allows, so changing a byte changes one thing.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Final

from hvfuzz.abi.boot import WORLDS
from hvfuzz.guest.format.argument_encoding import ArgumentCodec, Producers, new_tuple
from hvfuzz.guest.format.scanner import TextError
from hvfuzz.guest.format.text import TEXT_STARTS, parse
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import MAX_OPS, MAX_POINT, Actor, Mangle, Op, Point, Program, Race, Value

_EXTRAS: Final = 32
"""Extras bytes from here on count as 0: races and mangled structs are rare in random bytes."""
_MANGLED, _RACED = 1, 2
_POINT_BITS: Final = MAX_POINT.bit_length()
_MANGLE_PARTS: Final = tuple(Struct("<" + code) for code in "HHQI")


class _Codec:
    """Tables of the encoding, for one catalogue."""

    __slots__ = ("actors", "by_kind", "layouts", "numbers", "zeros")

    def __init__(self, catalogue: Catalogue) -> None:
        by_code = {kind.code: ArgumentCodec(kind) for kind in catalogue.kinds}
        folded = tuple(by_code.values())
        self.layouts = tuple(by_code.get(code) or folded[code % len(folded)] for code in range(256))
        self.by_kind = {layout.kind: layout for layout in folded}
        # Room for the longest op: opcode, actor and extras, values and mangle, twice for a race, and its point.
        self.zeros = bytes(2 * (3 + 17 + 1 + max(layout.longest for layout in folded)))
        actors = [
            [Actor(domain, vcpu) for domain, each in enumerate(world.domains) for vcpu in range(each.vcpus)]
            for world in WORLDS
        ]
        self.actors = tuple(tuple(some[byte % len(some)] for byte in range(256)) for some in actors)
        self.numbers = tuple({actor: number for number, actor in enumerate(some)} for some in actors)


_codec = lru_cache(maxsize=8)(_Codec)


def longest_program(catalogue: Catalogue) -> int:
    """A bound on the bytes of any program."""
    return 1 + MAX_OPS * len(_codec(catalogue).zeros)


def decode(data: bytes, catalogue: Catalogue) -> Program:
    """The program that `data` encodes: as text if it starts like one and parses, else as bytes. Never raises."""
    if data.startswith(TEXT_STARTS):
        try:
            return parse(data.decode(), catalogue)
        except (TextError, UnicodeDecodeError):
            pass
    codec = _codec(catalogue)
    end = len(data)
    world = data[0] % len(WORLDS) if data else 0
    data = bytes(data) + codec.zeros
    layouts, actors = codec.layouts, codec.actors[world]
    producers: Producers = {}
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
            if extras & _RACED and layout.points:
                race, at = _decode_race(data, at, index, producers, layouts, actors, layout.points)
        ops.append(new_tuple(Op, (layout.kind, actor, values, mangle, race)))
        for resource in layout.resources:
            producers.setdefault(resource, []).append(index)
        index += 1
    return Program(world, tuple(ops))


def _decode_race(
    data: bytes,
    at: int,
    index: int,
    producers: Producers,
    layouts: tuple[ArgumentCodec, ...],
    actors: tuple[Actor, ...],
    points: tuple[Point, ...],
) -> tuple[Race, int]:
    number, kind = data[at] & MAX_POINT, data[at] >> _POINT_BITS
    point = Point(kind) if kind in points else points[kind % len(points)]
    layout = layouts[data[at + 1]]
    actor = actors[data[at + 2]]
    extras = data[at + 3]
    values, at = layout.decode(data, at + 4, index, producers)
    mangle = None
    if extras < _EXTRAS and extras & _MANGLED and layout.mangles:
        mangle, at = _decode_mangle(data, at)
    return Race(number, Op(layout.kind, actor, values, mangle), point), at


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
    """The bytes of a well-formed program: `decode(encode(p, catalogue), catalogue) == p`."""
    codec = _codec(catalogue)
    by_kind, numbers = codec.by_kind, codec.numbers[program.world]
    producers: Producers = {}
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
            place = race.point << _POINT_BITS | race.number
            out.append(bytes((place, other.kind.code, numbers[other.actor], other.mangle is not None)))
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
