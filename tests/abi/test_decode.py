"""Headers and bodies: the refusals of steps 6 to 8 and 10 of the order of checks."""

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvfuzz.abi.declaration import Declaration
from hvfuzz.abi.decode import check_header, decode, decode_body
from hvfuzz.abi.status import Status

Declare = Callable[..., Declaration]


def contract(size: int, version: int, reserved: int, spoken: int) -> tuple[int, int] | Status:
    if size < 8 or size > 256:
        return Status.INVALID
    if reserved != 0:
        return Status.INVALID
    if version == 0:
        return Status.INVALID
    if version > spoken:
        return Status.TOO_NEW
    return size, version


@given(
    size=st.sampled_from((0, 7, 8, 9, 255, 256, 257)) | st.integers(0, 0xFFFF),
    version=st.integers(0, 3) | st.integers(0, 0xFFFF),
    reserved=st.just(0) | st.integers(0, 0xFFFF_FFFF),
    spoken=st.sampled_from((1, 2)),
)
def test_a_header_is_judged_as_the_contract_says(size: int, version: int, reserved: int, spoken: int) -> None:
    header = struct.pack("<HHI", size, version, reserved)
    assert check_header(header, spoken) == contract(size, version, reserved, spoken)


@given(header=st.binary(min_size=8, max_size=8), spoken=st.sampled_from((1, 2)))
def test_any_header_is_judged(header: bytes, spoken: int) -> None:
    size, version, reserved = struct.unpack("<HHI", header)
    assert check_header(header, spoken) == contract(size, version, reserved, spoken)


@pytest.fixture
def call(declare: Declare) -> Declaration:
    """u64, u32, u8, and u8 since version 2: the last lies in the padding of version 1."""
    return declare([(8, 1), (4, 1), (1, 1), (1, 2)])


def arguments(decoded: object) -> tuple[int, ...]:
    return tuple(getattr(decoded, name) for name in ("f0", "f1", "f2", "f3"))


def test_a_whole_body(call: Declaration) -> None:
    body = call.layouts[2].encode((1, 2, 3, 4))[8:]
    assert arguments(decode_body(call, 2, body)) == (1, 2, 3, 4)


def test_an_older_struct_has_zero_in_later_fields_whatever_lies_there(call: Declaration) -> None:
    body = call.layouts[2].encode((1, 2, 3, 4))[8:]
    assert arguments(decode_body(call, 1, body)) == (1, 2, 3, 0)


@pytest.mark.parametrize(
    ("length", "values"),
    [(0, (0, 0, 0, 0)), (1, (1, 0, 0, 0)), (9, (1, 2, 0, 0)), (13, (1, 2, 3, 0)), (14, (1, 2, 3, 4))],
)
def test_a_shorter_body_is_zero_extended(call: Declaration, length: int, values: tuple[int, ...]) -> None:
    body = call.layouts[2].encode((1, 2, 3, 4))[8:]
    assert arguments(decode_body(call, 2, body[:length])) == values


def test_a_longer_body_is_too_new_unless_the_rest_is_zero(call: Declaration) -> None:
    body = call.layouts[2].encode((1, 2, 3, 4))[8:]
    assert arguments(decode_body(call, 2, body + bytes(224))) == (1, 2, 3, 4)
    assert decode_body(call, 2, body + bytes(7) + b"\1") is Status.TOO_NEW
    assert decode_body(call, 2, body + b"\1" + bytes(7)) is Status.TOO_NEW


def test_padding_is_not_looked_at(call: Declaration) -> None:
    body = bytearray(call.layouts[2].encode((1, 2, 3, 4))[8:])
    body[14:] = b"\xff\xff"
    assert arguments(decode_body(call, 2, bytes(body))) == (1, 2, 3, 4)


def test_a_call_without_fields(declare: Declare) -> None:
    call = declare([])
    assert call.layouts[1].size == 8
    assert isinstance(decode_body(call, 1, b""), call.call)
    assert isinstance(decode_body(call, 1, bytes(8)), call.call)
    assert decode_body(call, 1, b"\1") is Status.TOO_NEW


def test_the_size_says_how_much_of_the_body_counts(call: Declaration) -> None:
    body = call.layouts[2].encode((1, 2, 3, 4))[8:]
    assert arguments(decode(call, struct.pack("<HHI", 8 + 12, 2, 0), body, 2)) == (1, 2, 0, 0)


def test_the_header_refuses_before_the_body(call: Declaration) -> None:
    newer = bytes(16) + b"\1"
    assert decode(call, struct.pack("<HHI", 25, 3, 0), newer, 2) is Status.TOO_NEW
    assert decode(call, struct.pack("<HHI", 25, 3, 1), newer, 2) is Status.INVALID
    assert decode(call, struct.pack("<HHI", 25, 0, 0), newer, 2) is Status.INVALID
    assert decode(call, struct.pack("<HHI", 25, 2, 0), newer, 2) is Status.TOO_NEW
