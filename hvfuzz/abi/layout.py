"""Layout of the argument struct of one call at one version: a construct struct, lowered to `struct` for speed.

construct is the authority. It is given fields, order, alignment and padding; offsets, sizes and the `struct.Struct`
are derived from its subconstructs. The tests of `abi` check that both parsers agree on hostile bytes.
"""

import struct
from collections.abc import Sequence
from types import MappingProxyType
from typing import NamedTuple

import construct

from hvfuzz.abi.kinds import Kind
from hvfuzz.abi.limits import HEADER_SIZE, STRUCT_MAX

_INTEGERS = {1: construct.Int8ul, 2: construct.Int16ul, 4: construct.Int32ul, 8: construct.Int64ul}
ALIGNMENT = 8

Header = construct.Struct(
    "size" / construct.Int16ul,
    "version" / construct.Int16ul,
    "reserved" / construct.Int32ul,
)
"""Size of the whole struct, header included; ABI version that it is written for; zero."""


class LayoutError(ValueError):
    """A declaration without a layout: it is too large, or has parts that cannot be lowered."""


class Field(NamedTuple):
    """One field of a call: `name` in structs and text, `attribute` in Python (`from_` for a field `from`)."""

    name: str
    kind: Kind
    since: int = 1
    default: int = 0
    attribute: str = ""


class Place(NamedTuple):
    """A value in the lowered struct: dotted name, offset in bytes, format character of `struct`."""

    name: str
    offset: int
    code: str


def describe(fields: Sequence[Field]) -> construct.Struct:
    """The construct struct of the header and `fields`, naturally aligned and padded to a multiple of 8 bytes."""
    members = ["header" / Header]
    offset = HEADER_SIZE
    for field in fields:
        width = field.kind.width
        gap = -offset % width
        if gap:
            members.append(construct.Padding(gap))
        members.append(field.name / _INTEGERS[width])
        offset += gap + width
    if tail := -offset % ALIGNMENT:
        members.append(construct.Padding(tail))
    return construct.Struct(*members)


def lower(description: construct.Construct) -> tuple[str, tuple[Place, ...]]:
    """The `struct` format (little-endian, no implied alignment) and the values of a construct struct.

    Supports structs, named little-endian integers and padding. Raises LayoutError for anything else, so the fast
    decoder never differs from construct.
    """
    codes: list[str] = []
    places: list[Place] = []

    def walk(part: construct.Construct, name: str, offset: int) -> int:
        if isinstance(part, construct.Renamed):
            return walk(part.subcon, f"{name}.{part.name}" if name else part.name, offset)
        if isinstance(part, construct.Struct):
            for member in part.subcons:
                offset = walk(member, name, offset)
            return offset
        if isinstance(part, construct.Padded) and part.subcon is construct.Pass and part.pattern == b"\0":
            codes.append(f"{part.length}x")
            return offset + int(part.length)
        if isinstance(part, construct.FormatField) and part.fmtstr[0] == "<":
            codes.append(part.fmtstr[1])
            places.append(Place(name, offset, part.fmtstr[1]))
            return offset + int(part.length)
        raise LayoutError(f"{name or 'struct'}: {part!r} has no lowered form")

    walk(description, "", 0)
    return "<" + "".join(codes), tuple(places)


_HEADER = struct.Struct(lower(Header)[0])


class Layout:
    """The struct of one call at `version`, with the `fields` that this version includes.

    `size` includes the header. `offsets` maps field names to offsets from the start of the struct. `lowered` parses the
    whole struct, whose first three values are those of the header. `header` holds the bytes of a well-formed header;
    `body` parses the bytes after it.
    """

    __slots__ = ("body", "construct", "fields", "header", "known", "lowered", "maxima", "offsets", "size", "version")

    def __init__(self, version: int, fields: Sequence[Field]) -> None:
        self.version = version
        self.fields = tuple(fields)
        self.construct = describe(self.fields)
        code, places = lower(self.construct)
        self.lowered = struct.Struct(code)
        self.size = self.lowered.size
        if self.size > STRUCT_MAX:
            raise LayoutError(f"a struct of {self.size} bytes exceeds the limit of {STRUCT_MAX}")
        members = [place for place in places if not place.name.startswith("header.")]
        self.offsets = MappingProxyType({place.name: place.offset for place in members})
        self.body = struct.Struct("<" + code[len(_HEADER.format) :])
        self.header = _HEADER.pack(self.size, version, 0)
        self.maxima = tuple(field.kind.maximum for field in self.fields)
        self.known = len(self.fields)

    def decode(self, data: bytes) -> tuple[int, ...]:
        """The field values in a whole struct. Missing bytes are zero; surplus bytes are ignored."""
        return self.lowered.unpack_from(data.ljust(self.size, b"\0"))[3:]

    def encode(
        self, values: Sequence[int], *, size: int | None = None, version: int | None = None, reserved: int = 0
    ) -> bytes:
        """The bytes of the whole struct with these field values, each truncated to its width.

        Surplus values, of fields that this version lacks, are dropped; missing values are zero. `size`, `version` and
        `reserved` replace the values in the header, as a hostile guest would; they do not change the length of the
        result.
        """
        if len(values) > self.known:
            values = values[: self.known]
        try:
            body = self.body.pack(*values)
        except struct.error:
            # Rare: too few values, or one that is too wide for its field, such as a result that a program passes on.
            given = [value & maximum for value, maximum in zip(values, self.maxima, strict=False)]
            body = self.body.pack(*given, *[0] * (len(self.maxima) - len(given)))
        if size is None and version is None and not reserved:
            return self.header + body
        return (
            _HEADER.pack(
                (self.size if size is None else size) & 0xFFFF,
                (self.version if version is None else version) & 0xFFFF,
                reserved & 0xFFFF_FFFF,
            )
            + body
        )
