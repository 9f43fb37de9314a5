"""Kinds: each edge and symbol fits, pointers have elements, and a call can adapt a kind."""

from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvfuzz.abi import boot, boundary_values, kinds, limits
from hvfuzz.abi.kinds import Array, Choice, Flags, Kind, kind_of

READY_MADE = {name: kind for name in vars(kinds) if (kind := kind_of(getattr(kinds, name))) is not None}


def test_there_are_ready_made_kinds() -> None:
    assert {"U8", "U64", "GfnArg", "GvaArg", "IovaArg", "PortArray", "DmaRing", "CallEntries"} <= set(READY_MADE)


@pytest.mark.parametrize("kind", READY_MADE.values(), ids=READY_MADE)
def test_every_kind_has_edges_for_a_fuzzer_and_words_for_a_reader(kind: Kind) -> None:
    assert len(kind.edges) > 5
    assert len(set(kind.edges)) == len(kind.edges)
    assert all(0 <= edge <= kind.maximum for edge in kind.edges)
    assert (kind.doc and not kind.doc.endswith(".")) or kind.element


def test_the_edges_that_matter_are_there() -> None:
    assert {limits.MAX_GFN - 1, limits.MAX_GFN, 2**52 - 1, 2**64 - 1} <= set(kinds.GFN.edges)
    hole = (boot.HYPERVISOR_HOLE_START, boot.HYPERVISOR_HOLE_END)
    assert {end + step for end in hole for step in (-8, -1, 0)} <= set(kinds.GVA.edges)
    assert {1 << 47, 2**64 - 1, 2**64 - 4096} <= set(kinds.GVA.edges)
    assert {limits.IOVA_LIMIT - 4096, limits.IOVA_LIMIT, 1} <= set(kinds.IOVA.edges)
    assert {limits.PORTS - 1, limits.PORTS, 31, 32} <= set(kinds.PORT.edges)
    assert {limits.SELF, 3, 0xFFFF} <= set(kinds.DOMAIN.edges)
    bounds = {limits.RANGE, limits.POLL, limits.EXCHANGE, limits.BATCH, limits.POPULATE, limits.POPULATE_LARGE}
    assert {bound + step for bound in bounds for step in (0, 1)} <= set(kinds.COUNT.edges)


def test_flags_are_ored_bits() -> None:
    kind = Flags("HOST", "DEVICE", "READONLY")
    assert (kind.width, kind.flags, dict(kind.names)) == (1, True, {"HOST": 1, "DEVICE": 2, "READONLY": 4})
    assert {0, 1, 2, 4, 7, 8, 0x80, 0xFF} <= set(kind.edges)
    full = Flags(*"abcdefgh")
    assert full.maximum in full.edges, "a field without nameless bits"


def test_a_choice_goes_one_beyond() -> None:
    kind = Choice("A", "B")
    assert (kind.width, kind.flags, dict(kind.names)) == (4, False, {"A": 0, "B": 1})
    assert 2 in kind.edges


def test_arrays_point() -> None:
    of_ports = Array(kinds.PortArg, limit=16)
    assert (of_ports.width, of_ports.element, of_ports.limit) == (8, kinds.PORT, 16)
    assert of_ports.element_at(40) == kinds.PORT
    with pytest.raises(TypeError, match="must be a Kind"):
        Array(int)
    with pytest.raises(ValueError, match="not a pointer"):
        kinds.GFN.element_at(0)


def test_words_of_a_ring_have_their_own_meaning() -> None:
    ring = READY_MADE["DmaRing"]
    assert [ring.element_at(i).name for i in range(8)] == [
        *("count", "iova", "iova", "length"),
        *("iova", "iova", "length", "iova"),
    ]


def test_entries_of_a_multicall_follow() -> None:
    entries = READY_MADE["CallEntries"]
    assert entries.follow
    assert [entries.element_at(i).name for i in range(5)] == [
        "call_number",
        "gva",
        "u64",
        "u64",
        "call_number",
    ]


def test_a_call_can_have_edges_and_symbols_of_its_own() -> None:
    kind = kinds.LENGTH.trying(1000, 0).named(PAGE=4096)
    assert kind.edges[:3] == (4096, 1000, 0)
    assert dict(kind.names) == {"PAGE": 4096}
    assert kinds.LENGTH.sized(2).edges == boundary_values.distinct(*(edge % 2**16 for edge in kinds.LENGTH.edges))


def test_the_outermost_kind_of_nested_annotations_counts() -> None:
    assert kind_of(Annotated[kinds.GfnArg, kinds.IOVA]) is kinds.IOVA
    assert kind_of(Annotated[kinds.GfnArg, "note"]) is kinds.GFN
    assert kind_of(int) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 3}, "width 3"),
        ({"width": 1, "edges": (256,)}, "0x100 does not fit"),
        ({"width": 1, "edges": (-1,)}, "does not fit"),
        ({"width": 2, "names": {"X": 1 << 16}}, "does not fit"),
        ({"width": 8, "follow": True}, "need an element"),
        ({"width": 4, "element": kinds.GFN}, "pointer is 8 bytes"),
        ({"width": 8, "element": kinds.GFN, "head": (kinds.COUNT,)}, "one width"),
    ],
)
def test_impossible_kinds_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Kind("odd", **arguments)  # type: ignore[arg-type]


@given(width=st.sampled_from((1, 2, 4, 8)), values=st.lists(st.integers(0, 2**64), max_size=5))
def test_neighbours_wrap(width: int, values: list[int]) -> None:
    assert set(boundary_values.around(width, values)) == {
        (value + step) % 256**width for value in values for step in (-1, 0, 1)
    }
