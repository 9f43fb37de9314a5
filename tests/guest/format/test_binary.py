"""The byte form: any bytes decode to a program, and every program has one encoding."""

from collections.abc import Callable
from random import Random
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from hvfuzz.guest.format.binary import decode, encode
from hvfuzz.guest.format.text import render
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import MAX_OPS, MAX_POINT, Actor, Op, Point, Program, Race, Ref, defect

CALLS_OF_AN_OP: Final = 3


@given(data=st.data())
def test_encoding_keeps_the_program(
    data: st.DataObject, known: Catalogue, programs: st.SearchStrategy[Program]
) -> None:
    program = data.draw(programs)
    assert defect(program) is None
    assert decode(encode(program, known), known) == program


def test_a_race_of_an_old_byte_form_is_at_a_fetch(own: Catalogue) -> None:
    """Its number takes six bits, and the others were clear."""
    create, hlt = own.by_name["grant.create"], own.by_name["hlt"]
    races = [Race(number, Op(hlt, Actor(1, 1), ())) for number in (0, 1, MAX_POINT)]
    program = Program(0, tuple(Op(create, Actor(1, 0), (0x40, 2, 1), None, race) for race in races))
    encoded = encode(program, own)
    place = len(encode(Program(0, program.ops[:1]), own)) - 4
    assert [encoded[place + (len(encoded) - 1) // 3 * at] for at in range(3)] == [0, 1, 63]
    assert decode(encoded, own) == program
    # A kind of point that the op does not have becomes one that it has.
    for kind in range(4):
        changed = bytearray(encoded)
        changed[place] |= kind << 6
        race = decode(bytes(changed), own).ops[0].race
        assert race is not None
        assert race.point == (Point.FETCH, Point.WRITE, Point.FETCH, Point.WRITE)[kind]


@settings(max_examples=250)
@given(data=st.binary(max_size=600))
def test_any_bytes_are_a_program_with_one_encoding(data: bytes, known: Catalogue) -> None:
    program = decode(data, known)
    assert defect(program) is None
    canonical = encode(program, known)
    assert decode(canonical, known) == program
    assert encode(decode(canonical, known), known) == canonical


@given(data=st.data())
def test_bytes_next_to_a_program_are_programs(
    data: st.DataObject, known: Catalogue, programs: st.SearchStrategy[Program]
) -> None:
    """A byte fuzzer changes a byte, cuts the end, or inserts bytes."""
    encoded = bytearray(encode(data.draw(programs), known))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    assert defect(decode(bytes(encoded), known)) is None
    assert defect(decode(bytes(encoded[:at]), known)) is None


def test_one_changed_byte_changes_one_argument(own: Catalogue) -> None:
    populate = own.by_name["memory.populate"]
    program = Program(0, (Op(populate, Actor(1, 0), (0x40, 1, 0)),) * 3)
    encoded = bytearray(encode(program, own))
    size = (len(encoded) - 1) // 3
    encoded[1 + size + 3] ^= 0x80
    changed = decode(bytes(encoded), own)
    assert changed.ops[0] == program.ops[0]
    assert changed.ops[1].values == (0x40 ^ 0x80, 1, 0)
    assert changed.ops[2] == program.ops[2]


def test_a_zero_tagged_reference_is_the_last_producer(own: Catalogue) -> None:
    create, revoke = own.by_name["grant.create"], own.by_name["grant.revoke"]
    first = Op(create, Actor(1, 0), (0x40, 2, 1))
    for target in (0, 1):
        program = Program(0, (first, first, Op(revoke, Actor(1, 0), (Ref(target),))))
        encoded = encode(program, own)
        # The last five bytes are tag 1 and the distance to the producer, a u32.
        assert encoded[-5:] == bytes((1, 1 - target, 0, 0, 0))
        # An op in between that produces no resource does not change the encoding.
        between = Program(0, (*program.ops[:2], Op(revoke, Actor(1, 0), (0,)), program.ops[2]))
        assert encode(between, own)[-5:] == encoded[-5:]


def test_text_that_parses_is_that_program_and_other_text_is_bytes(own: Catalogue) -> None:
    program = Program(2, (Op(own.by_name["grant.create"], Actor(1, 1), (0x40, 2, 3)),))
    assert decode(render(program).encode(), own) == program
    for broken in (
        b"# hvp 1\nworld pair\ngrant.crate(dom1)\n",
        b"# hvp 1\n\xff\xfe",
        b"# hvp",
        b"# hvp 2\n",
        b"# hvp 1\nworld pair\nhlt(dom" + b"9" * 9000 + b")",
    ):
        assert defect(decode(broken, own)) is None


def test_ops_beyond_the_bound_are_left_out(own: Catalogue) -> None:
    encoded = b"\0" + encode(Program(0, (Op(own.by_name["hlt"], Actor(1, 0), ()),)), own)[1:] * (MAX_OPS + 9)
    assert len(decode(encoded, own).ops) == MAX_OPS


def test_no_bytes_are_the_empty_program(known: Catalogue) -> None:
    assert decode(b"", known) == Program(0, ())


def test_decoding_is_cheap_enough_for_a_fuzzer(known: Catalogue, calls_of: Callable[..., int]) -> None:
    rng = Random(1)
    inputs = [encode(decode(rng.randbytes(400), known), known) for _ in range(200)]
    ops = sum(len(decode(each, known).ops) for each in inputs)
    calls = calls_of(lambda: [decode(each, known) for each in inputs])
    assert 1 < calls / ops < CALLS_OF_AN_OP, calls / ops
