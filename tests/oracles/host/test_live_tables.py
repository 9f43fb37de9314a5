"""The tables followed write by write are those that the shadow finds at the end."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from hvfuzz.abi.boot import WORLDS
from hvfuzz.guest.generate.generator import generate
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.machine.addresses import PAGE_SIZE
from hvfuzz.oracles.host.live_tables import LiveTables
from hvfuzz.oracles.shadow.changes import DMA, LARGE, Table

CATALOGUE = catalogue(ABI)


def live_of(rig: Any) -> LiveTables:
    """The tables that the watcher of the rig follows."""
    live: LiveTables = next(each for each in rig.suite._close_watchers if hasattr(each, "_live"))._live
    return live


@pytest.mark.parametrize("world", range(len(WORLDS)), ids=[world.name for world in WORLDS])
def test_they_are_those_of_the_shadow(rigs: Any, world: int) -> None:
    rig = rigs(world)
    rng = Random(world)
    for _ in range(8):
        rig.restore()
        rig.suite.watch_closely(True)
        rig.perform(generate(rng, CATALOGUE, ops=40, worlds=(world,)))
        live = live_of(rig)
        if not live.tables:
            continue  # The host wrote nothing.
        assert live.tables == dict(rig.shadow.tables)
        assert live.entries == dict(rig.shadow.entries)
        for mine, shadowed in ((live.leaves, rig.shadow.leaves), (live.large, rig.shadow.large)):
            assert {key: sorted(words) for key, words in mine.items()} == {
                key: sorted(words) for key, words in shadowed.items()
            }


@pytest.fixture
def live(rig: Any) -> LiveTables:
    rig.hv.allocator.take_block(0x400, 1, 3)
    live = LiveTables(rig.shadow)
    live.start()
    return live


def word_above(rig: Any, page: int) -> int:
    """Index of the level 2 word for a page of dom1 in the first GiB."""
    words, tables = rig.memory.words, rig.shadow.tables
    hfn = next(hfn for hfn, table in tables.items() if table == Table(1, 2, 0))
    assert words[(hfn << 9) + (page >> 9)] == 0
    return int((hfn << 9) + (page >> 9))


def test_a_split_and_a_merge_change_no_page(rig: Any, live: LiveTables) -> None:
    word = word_above(rig, 0x600)
    large = 0x400 << 12 | LARGE | 0x37
    rig.memory.store64(word << 3, large)
    change = live.take_over(word)
    assert change is not None
    assert (change.before, len(change.after)) == ({}, 512)
    assert change.after[0x605] == (0x405, 7)
    table = next(iter(rig.hv.domains[1].pool))
    for index in range(512):
        rig.memory.store64((table << 12) + index * 8, (large & ~LARGE) + index * PAGE_SIZE)
    rig.memory.store64(word << 3, table << 12 | 7)
    split = live.take_over(word)
    assert split is not None
    assert split.before == split.after == change.after
    assert split.linked == [(table, Table(1, 1, 0x600))]
    assert live.naming(0x405) == ((table << 9) + 5,)
    rig.memory.store64(word << 3, large)
    merge = live.take_over(word)
    assert merge is not None
    assert merge.before == merge.after == change.after
    assert merge.unlinked == split.linked
    assert live.naming(0x405) == (word,)


def test_a_link_narrows_what_lies_below_it(rig: Any, live: LiveTables) -> None:
    word = word_above(rig, 0x600)
    table = next(iter(rig.hv.domains[1].pool))
    for index in range(512):
        rig.memory.store64((table << 12) + index * 8, 0x400 << 12 | 0x37 if index == 5 else 0)
    rig.memory.store64(word << 3, table << 12 | 1)
    change = live.take_over(word)
    assert change is not None
    assert change.after == {0x605: (0x400, 1)}


def test_a_table_that_is_linked_twice_is_followed_once(rig: Any, live: LiveTables) -> None:
    word = word_above(rig, 0x600)
    root = rig.shadow.roots[1 | DMA]
    rig.memory.store64(word << 3, root << 12 | 7)
    change = live.take_over(word)
    assert change is not None
    assert (change.after, change.linked) == ({}, [])
    assert live.tables[root].space == 1 | DMA
    rig.memory.store64(word << 3, 0)
    assert (gone := live.take_over(word)) is not None
    assert (gone.before, gone.unlinked) == ({}, [])
    assert live.take_over(word) is None
