"""Encoding of the arguments of each kind of op in the byte form (see `hvfuzz.guest.format.binary`)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from operator import itemgetter
from struct import Struct
from typing import Any, Final

from hvfuzz.abi.kinds import Kind
from hvfuzz.guest.program.argument_kinds import ANY_RESOURCE, INTEGER_FORMAT
from hvfuzz.guest.program.ops import OpKind
from hvfuzz.guest.program.program import MAX_ELEMENTS, Ref, Value, is_array, points_of

_RAW_POINTER: Final = 31
_LITERAL, _PRODUCER, _ANY_OP = 0, 1, 2
_POINTER: Final = Struct("<Q")

Producers = dict[str, list[int]]
"""By resource: indices of the ops so far that produce it."""

# Skips the constructor of a NamedTuple: decoding and encoding a program take 10 % fewer instructions with it
# (14.8 million instead of 16.5 million for 60 programs, counted by Callgrind).
new_tuple: Callable[..., Any] = tuple.__new__


class _Run:
    """A sequence of numbers of fixed width, of which those that can be references have a tag before them."""

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
            layout += INTEGER_FORMAT[kind.width]
        struct = Struct(layout)
        self.size = struct.size
        self.unpack = struct.unpack_from
        self.pack = struct.pack
        self.plain = not consumers
        self.consumers = tuple(consumers)
        """Of each consumer: (position among the values, position of its tag among the packed numbers, resource)."""
        # itemgetter with one position returns no tuple; with a slice it does.
        one = slice(picked[0], None) if picked else slice(0, 0)
        self.pick: Callable[[tuple[int, ...]], tuple[int, ...]] = (
            itemgetter(*picked) if len(picked) > 1 else itemgetter(one)
        )

    def decode(self, data: bytes, at: int, index: int, producers: Producers) -> tuple[int | Ref, ...]:
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
            values[position] = new_tuple(Ref, (target,))
        return self.pick(numbers) if values is None else tuple(values)

    def encode(self, values: tuple[Any, ...], index: int, producers: Producers) -> bytes:
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
    """An array: one run for each length up to MAX_ELEMENTS."""

    __slots__ = ("runs",)

    def __init__(self, kind: Kind) -> None:
        elements = [kind.element_at(position) for position in range(MAX_ELEMENTS)]
        self.runs = tuple(_Run(elements[:length]) for length in range(MAX_ELEMENTS + 1))


class ArgumentCodec:
    """Encoding of the values of one kind of op."""

    __slots__ = ("kind", "longest", "mangles", "parts", "points", "resources", "run")

    def __init__(self, kind: OpKind) -> None:
        self.kind = kind
        self.mangles = kind.number is not None
        self.points = points_of(kind)
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
        """The only part of a kind without arrays; None for other kinds."""
        self.longest = sum(part.size if isinstance(part, _Run) else 1 + part.runs[-1].size for part in parts)

    def decode(self, data: bytes, at: int, index: int, producers: Producers) -> tuple[tuple[Value, ...], int]:
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

    def encode(self, values: tuple[Any, ...], index: int, producers: Producers) -> bytes:
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
