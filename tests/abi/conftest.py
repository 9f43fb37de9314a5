"""The laws of argument structs, for random declarations and for the real contract alike."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated

import construct
import pytest

from hvfuzz.abi.declaration import Call, Declaration, Since, declaration_of, hypercall
from hvfuzz.abi.decode import decode_body
from hvfuzz.abi.kinds import Kind
from hvfuzz.abi.layout import Layout
from hvfuzz.abi.limits import HEADER_SIZE
from hvfuzz.abi.status import Status
from hvfuzz.abi.versions import VERSIONS

Declare = Callable[..., Declaration]
Law = Callable[[Declaration, int, bytes], None]


def _declare(fields: Sequence[tuple[int, int]], since: int = 1) -> Declaration:
    """A call with fields f0, f1, ... of these (width, since)."""
    hints = {f"f{i}": Annotated[int, Kind("n", width), Since(v)] for i, (width, v) in enumerate(fields)}
    members = {"__annotations__": hints, "__doc__": "A sample.", "__module__": __name__}
    return declaration_of(hypercall(1, name="sample.call", since=since)(type("Sample", (), members)))


@pytest.fixture(scope="session")
def declare() -> Declare:
    """Declarations made on the spot."""
    return _declare


def _values(layout: Layout, parsed: construct.Container) -> tuple[int, ...]:
    return tuple(parsed[field.name] for field in layout.fields)


def _parsers_agree(declaration: Declaration, version: int, data: bytes) -> None:
    layout = declaration.layouts[version]
    assert layout.construct.sizeof() == layout.size
    if len(data) < layout.size:
        with pytest.raises(construct.StreamError):
            layout.construct.parse(data)
        return
    parsed = layout.construct.parse(data)
    header = (parsed.header.size, parsed.header.version, parsed.header.reserved)
    assert layout.lowered.unpack_from(data) == header + _values(layout, parsed)
    assert layout.decode(data) == _values(layout, parsed)
    assert layout.body.unpack_from(data, HEADER_SIZE) == _values(layout, parsed)
    built = layout.construct.build(parsed)
    assert layout.lowered.pack(*header, *_values(layout, parsed)) == built


@pytest.fixture(scope="session")
def parsers_agree() -> Law:
    """The lowered struct means what the construct struct means, for a buffer of any length and content."""
    return _parsers_agree


def _expected(declaration: Declaration, version: int, body: bytes) -> Status | tuple[int, ...]:
    """Step 10 of the order of checks, written with construct."""
    layout = declaration.layouts[version]
    size = layout.size - HEADER_SIZE
    if any(body[size:]):
        return Status.TOO_NEW
    parsed = layout.construct.parse(bytes(HEADER_SIZE) + body[:size] + bytes(max(0, size - len(body))))
    return tuple(parsed.get(field.name, 0) for field in declaration.fields)


def _decoded(declaration: Declaration, arguments: Call | Status) -> Status | tuple[int, ...]:
    if isinstance(arguments, Status):
        return arguments
    assert type(arguments) is declaration.call
    return tuple(getattr(arguments, field.attribute) for field in declaration.fields)


def _decode_obeys(declaration: Declaration, version: int, body: bytes) -> None:
    expected = _expected(declaration, version, body)
    assert _decoded(declaration, decode_body(declaration, version, body)) == expected
    # Zeros at the end say nothing.
    assert _decoded(declaration, decode_body(declaration, version, body + bytes(5))) == expected
    assert _decoded(declaration, decode_body(declaration, version, body.rstrip(b"\0"))) == expected


@pytest.fixture(scope="session")
def decode_obeys() -> Law:
    """decode_body obeys the contract for short, long and padded bodies."""
    return _decode_obeys


def _append_only(declaration: Declaration) -> None:
    for older, newer in pairwise(VERSIONS):
        old, new = declaration.layouts[older], declaration.layouts[newer]
        assert new.fields[: len(old.fields)] == old.fields
        assert {name: new.offsets[name] for name in old.offsets} == old.offsets
        assert new.size >= old.size
        # What old writes, new reads: the struct zero-extended is the same call.
        values = tuple(field.kind.maximum for field in old.fields)
        assert new.decode(old.encode(values)) == values + (0,) * (len(new.fields) - len(values))
    for layout in declaration.layouts.values():
        assert layout.size % 8 == 0
        end = HEADER_SIZE
        for field in layout.fields:
            offset = layout.offsets[field.name]
            assert offset % field.kind.width == 0, "naturally aligned"
            assert end <= offset < end + field.kind.width, "in order, with no more padding than alignment needs"
            end = offset + field.kind.width
        assert 0 <= layout.size - end < 8


@pytest.fixture(scope="session")
def append_only() -> Callable[[Declaration], None]:
    """Each version's layout is a prefix of the next one's, naturally aligned and padded to eight bytes."""
    return _append_only
