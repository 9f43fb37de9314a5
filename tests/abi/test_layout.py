"""Layouts of random declarations: construct and the lowered struct agree, versions only append."""

import struct
from collections.abc import Callable

import construct
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvfuzz.abi.declaration import Declaration, DeclarationError
from hvfuzz.abi.layout import LayoutError, lower

Declare = Callable[..., Declaration]
Law = Callable[[Declaration, int, bytes], None]


@st.composite
def specs(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Widths of fields, with the version they came with: older first."""
    widths = draw(st.lists(st.sampled_from((1, 2, 4, 8)), max_size=12))
    old = draw(st.integers(0, len(widths)))
    return [(width, 1 if place < old else 2) for place, width in enumerate(widths)]


buffers = st.binary(max_size=130) | st.binary(max_size=40).map(lambda data: data.ljust(130, b"\xff"))


@settings(max_examples=150, deadline=None)
@given(spec=specs(), version=st.sampled_from((1, 2)), data=buffers)
def test_lowered_parser_equals_construct(
    declare: Declare, parsers_agree: Law, spec: list[tuple[int, int]], version: int, data: bytes
) -> None:
    parsers_agree(declare(spec), version, data)


@settings(max_examples=150, deadline=None)
@given(spec=specs(), version=st.sampled_from((1, 2)), body=buffers)
def test_decoding_obeys_the_contract(
    declare: Declare, decode_obeys: Law, spec: list[tuple[int, int]], version: int, body: bytes
) -> None:
    decode_obeys(declare(spec), version, body)


@settings(max_examples=100, deadline=None)
@given(spec=specs())
def test_versions_only_append(
    declare: Declare, append_only: Callable[[Declaration], None], spec: list[tuple[int, int]]
) -> None:
    append_only(declare(spec))


@settings(max_examples=100, deadline=None)
@given(spec=specs(), version=st.sampled_from((1, 2)), data=st.data())
def test_encoded_values_are_decoded_cut_off_to_their_width(
    declare: Declare, spec: list[tuple[int, int]], version: int, data: st.DataObject
) -> None:
    layout = declare(spec).layouts[version]
    values = data.draw(st.lists(st.integers(-(2**64), 2**65), max_size=len(spec) + 2))
    encoded = layout.encode(values)
    widths = [field.kind.width for field in layout.fields]
    padded = (values + [0] * len(widths))[: len(widths)]
    assert len(encoded) == layout.size
    assert struct.unpack_from("<HHI", encoded) == (layout.size, version, 0)
    assert layout.decode(encoded) == tuple(value % 256**width for value, width in zip(padded, widths, strict=True))


def test_a_hostile_header_changes_the_header_only(declare: Declare) -> None:
    layout = declare([(8, 1), (1, 2)]).layouts[2]
    honest = layout.encode((7, 1))
    assert layout.encode((7, 1), size=0xFFFF, version=9, reserved=3) == (struct.pack("<HHI", 0xFFFF, 9, 3) + honest[8:])


def test_decode_of_part_of_a_struct_sees_zeros(declare: Declare) -> None:
    layout = declare([(2, 1), (4, 1)]).layouts[1]
    assert layout.decode(layout.encode((0x1234, 5))[:9]) == (0x34, 0)


def test_a_field_may_lie_in_the_padding_of_the_version_before(declare: Declare) -> None:
    declaration = declare([(8, 1), (1, 1), (1, 2)])
    old, new = declaration.layouts[1], declaration.layouts[2]
    assert old.size == new.size == 24
    dirty = bytearray(old.encode((1, 2)))
    dirty[new.offsets["f2"]] = 0x7F
    assert old.decode(bytes(dirty)) == (1, 2), "padding is not looked at"


def test_the_first_layout_of_a_later_call_serves_older_structs(declare: Declare) -> None:
    declaration = declare([(8, 1), (4, 1)], since=2)
    assert declaration.layouts[1].offsets == declaration.layouts[2].offsets
    assert [field.since for field in declaration.fields] == [2, 2]


def test_a_struct_longer_than_a_call_may_have_is_refused(declare: Declare) -> None:
    declare([(8, 1)] * 31)
    with pytest.raises(DeclarationError, match="264 bytes"):
        declare([(8, 1)] * 32)


@pytest.mark.parametrize(
    "part",
    [
        construct.Int32ub,
        construct.Bytes(4),
        construct.Array(2, construct.Int8ul),
        construct.Padding(3, pattern=b"\1"),
        construct.Aligned(4, construct.Int8ul),
        construct.VarInt,
    ],
)
def test_what_has_no_lowered_form_is_refused(part: construct.Construct) -> None:
    with pytest.raises(LayoutError, match="odd"):
        lower(construct.Struct("odd" / part))


def test_lowering_reads_offsets_from_the_construct_struct() -> None:
    inner = construct.Struct("a" / construct.Int8ul, construct.Padding(3), "b" / construct.Int32ul)
    code, places = lower(construct.Struct("in" / inner, "c" / construct.Int64ul))
    assert struct.calcsize(code) == 16
    assert [(place.name, place.offset) for place in places] == [("in.a", 0), ("in.b", 4), ("c", 8)]
