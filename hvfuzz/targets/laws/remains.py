"""The comparison of what two runs leave: every fact, then every byte of memory that either has written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Self

from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.memory.allocator import HEAP_HEADER
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.machine.addresses import PAGE_SHIFT, WORD
from hvfuzz.oracles.contract.spec import Key
from hvfuzz.targets.laws.exemptions import Exemption
from hvfuzz.targets.laws.guide import difference
from hvfuzz.targets.laws.state_facts import State, contents, scene_of, state_of_system
from hvfuzz.targets.laws.variant import Variant

TABLES: Final = (FrameState.TABLE, FrameState.POOL)


class Place(NamedTuple):
    """What parts, with its value in each run. `probe` reads it of a system; its second argument: of the first run."""

    first: str
    second: str
    probe: Callable[[Hypervisor, bool], object]


class Remains(NamedTuple):
    """What a run of `variant` has left."""

    hv: Hypervisor
    variant: Variant
    state: State

    @classmethod
    def of(cls, hv: Hypervisor, variant: Variant, *, first: bool = False) -> Self:
        """Those of a run that is over; facts of the first one go by the names of the second."""
        return cls(hv, variant, _state(hv, variant.names, first))


def _state(hv: Hypervisor, names: Mapping[int, int], first: bool) -> State:
    return state_of_system(hv, names if first else {}, named=bool(names))


def remains_part(first: Remains, second: Remains) -> Place | None:
    """The first difference between what two runs leave; None if there is none."""
    facts, others = first.state.facts, second.state.facts
    if facts != others:
        key = min((key for key in facts.keys() | others.keys() if facts.get(key) != others.get(key)), key=repr)
        return _of_fact(first.variant.names, key, facts.get(key), others.get(key))
    return _of_pages(first, second) if first.variant.names else _of_frames(first, second)


def _of_fact(names: Mapping[int, int], key: Key, one: object, other: object) -> Place:
    texts = difference(one, other)
    name = f"{key[0]} {', '.join(hex(each) if isinstance(each, int) else str(each) for each in key[1:])}"
    return Place(f"{name}: {texts[0]}", texts[1], lambda hv, first: _state(hv, names, first).facts.get(key))


def _of_pages(first: Remains, second: Remains) -> Place | None:
    """The first byte that differs in a page of memory that either run has written."""
    names = first.variant.names
    for key, hfn in sorted(first.state.frames.items()):
        other = second.state.frames[key]
        if hfn not in first.hv.machine.memory.dirty and other not in second.hv.machine.memory.dirty:
            continue
        pages = contents(first.hv, hfn), contents(second.hv, other)
        if pages[0] != pages[1]:
            texts = difference(*pages)

            def probe(hv: Hypervisor, of_first: bool, key: Key = key) -> object:
                return contents(hv, _state(hv, names, of_first).frames.get(key, -1))

            return Place(f"{key[0]} {', '.join(map(hex, key[1:]))}: {texts[0]}", texts[1], probe)
    return None


def _of_frames(first: Remains, second: Remains) -> Place | None:
    """The same for all frames, the hypervisor's included."""
    one, other = first.hv, second.hv
    exempt = first.variant.exempt if first.variant.inserted else frozenset()
    headers = Exemption.HEAP_NUMBER in exempt
    heap = {value for key, value in first.state.facts.items() if headers and key[0] == "bucket"}
    for hfn in sorted(one.machine.memory.dirty | other.machine.memory.dirty):
        if Exemption.TABLE_PAGES in exempt and (_is_of_tables(one, hfn) or _is_of_tables(other, hfn)):
            continue
        start = HEAP_HEADER if hfn in heap else 0
        pages = contents(one, hfn)[start:], contents(other, hfn)[start:]
        if pages[0] != pages[1]:
            texts = difference(*pages)
            page = [key for key, each in first.state.frames.items() if each == hfn and key[0] == "page"]
            called = f"dom{page[0][1]}'s page {page[0][2]:#x}, " if page else ""

            def probe(hv: Hypervisor, _: bool, hfn: int = hfn, start: int = start) -> object:
                return contents(hv, hfn)[start:]

            return Place(f"{called}{scene_of(one).describe(hfn)}: {texts[0]}", texts[1], probe)
    return None


def _is_of_tables(hv: Hypervisor, hfn: int) -> bool:
    """Whether a frame is a table, one of a pool, or part of the frame table, all of whose cells have been compared."""
    scene = scene_of(hv)
    table = hv.frames.base >> PAGE_SHIFT
    return scene.frame_word(hfn) >> 8 & 0xFF in TABLES or table <= hfn < table + (hv.frames.count * WORD >> PAGE_SHIFT)
