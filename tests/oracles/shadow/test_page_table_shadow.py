"""The shadow that follows writes, in any order and in any batches, equals a shadow read from scratch."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from hvfuzz.hypervisor.memory.table_pool import POISON
from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.machine.mmu.ept import LARGE
from hvfuzz.oracles.shadow.changes import DMA
from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow


def assert_same(followed: PageTableShadow, fresh: PageTableShadow) -> None:
    fresh.attach()
    for name in ("entries", "tables", "populations", "contexts"):
        assert getattr(followed, name) == getattr(fresh, name), name
    for name in ("leaves", "large", "sides"):
        one, other = getattr(followed, name), getattr(fresh, name)
        assert {key: sorted(value) for key, value in one.items()} == {k: sorted(v) for k, v in other.items()}, name
    assert followed.frames.values == fresh.frames.values
    assert followed.state_counts == fresh.state_counts
    assert followed.table_counts == fresh.table_counts
    assert followed.grants == fresh.grants
    assert followed.handles == fresh.handles


class Editor:
    """Edits tables in legal and illegal ways, but never links a page twice."""

    def __init__(self, rig: Any, rng: Random) -> None:
        self.rig = rig
        self.rng = rng
        self.shadow: PageTableShadow = rig.shadow
        self.loose: list[int] = [rig.frame(0, gfn) for gfn in range(0x30, 0x38)]
        """Hfns of pages that are not tables at present."""

    def bits(self) -> int:
        return self.rng.choice((1, 3, 7, 0x37, 1 << 53 | 3))

    def leaf(self) -> int:
        return self.rng.randrange(self.rig.memory.frames + 4) << PAGE_SHIFT | self.bits()

    def pick(self, level: int) -> int | None:
        """Hfn of any table of the level, by the words in memory."""
        found = [hfn for hfn, at in self.walk().items() if at == level]
        return self.rng.choice(found) if found else None

    def walk(self) -> dict[int, int]:
        """Hfn -> level of every linked table, by the words in memory."""
        found: dict[int, int] = {}
        for space, root in self.shadow.roots.items():
            pending = [(root, 3 if space & DMA else 4)]
            while pending:
                hfn, level = pending.pop()
                found[hfn] = level
                if level > 1:
                    words = self.rig.memory.words[hfn << 9 : (hfn + 1) << 9].tolist()
                    for word in words:
                        present = word & (3 if space & DMA else 7)
                        if present and (level == 4 or not word & LARGE) and (word >> 12 & 0xFFFFF) < 4096:
                            pending.append((word >> 12 & 0xFFFFF, level - 1))
        return found

    def edit(self) -> None:
        getattr(self, self.rng.choice(("write", "write", "write", "unlink", "relink", "large", "fill", "frame")))()

    def store(self, hfn: int, index: int, word: int) -> None:
        self.rig.memory.store64((hfn << PAGE_SHIFT) + index * 8, word)

    def write(self) -> None:
        table = self.pick(1)
        if table is not None:
            self.store(table, self.rng.randrange(512), self.rng.choice((0, 0, self.leaf(), self.leaf(), 0x1000)))

    def links(self, hfn: int) -> list[int]:
        words = self.rig.memory.words[hfn << 9 : (hfn + 1) << 9].tolist()
        tables = self.walk()
        return [
            index
            for index, word in enumerate(words)
            if word & 3 and word >> 12 & 0xFFFFF in tables and not word & LARGE
        ]

    def unlink(self) -> None:
        """Unlink a table, poisoned or unchanged, with everything below it."""
        directory = self.pick(2)
        if directory is None or not self.links(directory):
            return
        index = self.rng.choice(self.links(directory))
        table = self.rig.memory.words[(directory << 9) + index] >> 12 & 0xFFFFF
        self.store(directory, index, self.rng.choice((0, 0, 0x4000)))
        if self.rng.random() < 0.5:
            self.rig.hv.host.fill(table, POISON)
        self.loose.append(table)

    def relink(self) -> None:
        """Link a page that was a table at another place, with other leaves."""
        directory = self.pick(2)
        if directory is None or not self.loose:
            return
        index = self.rng.randrange(8, 512)
        if self.rig.memory.words[(directory << 9) + index]:
            return
        table = self.loose.pop(self.rng.randrange(len(self.loose)))
        self.rig.hv.host.fill(table)
        for _ in range(self.rng.randrange(4)):
            self.store(table, self.rng.randrange(512), self.leaf())
        self.store(directory, index, table << PAGE_SHIFT | 3)
        if self.rng.random() < 0.5:
            self.store(table, self.rng.randrange(512), self.leaf())

    def large(self) -> None:
        """Write a large leaf over a table or an absent entry, or remove one."""
        directory = self.pick(2)
        if directory is None:
            return
        index = self.rng.randrange(12)
        old = self.rig.memory.words[(directory << 9) + index]
        if index in self.links(directory):
            self.loose.append(old >> 12 & 0xFFFFF)
        block = self.rng.randrange(self.rig.memory.frames >> 9) << 9
        self.store(directory, index, self.rng.choice((0, block << PAGE_SHIFT | LARGE | self.bits())))

    def fill(self) -> None:
        """Write a linked table as a whole."""
        table = self.pick(1)
        if table is not None:
            self.rig.hv.host.fill(table, self.rng.choice((0, self.leaf())))

    def frame(self) -> None:
        hfn = self.rng.randrange(self.rig.memory.frames)
        self.rig.memory.store64(self.rig.word(hfn), self.rng.randrange(1 << 11))


@pytest.mark.parametrize("watched_by_host_memory", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_following_is_reading(rigs: Any, seed: int, watched_by_host_memory: bool) -> None:
    rig = rigs(0, frozenset({"audit", "host_memory"} if watched_by_host_memory else {"audit"}))
    rng = Random(seed)
    rig.run(
        "device.dma_map(dom1, iova=0, gfn=0x30, count=3, rights=R)",
        "memory.populate(dom2, first=0x200, count=1, order=9)",
    )
    editor = Editor(rig, rng)
    for _ in range(20):
        for _ in range(rng.randrange(1, 6)):
            editor.edit()
        rig.shadow.update()
        assert_same(rig.shadow, PageTableShadow(rig.shadow.scene))
    rig.restore()
    assert_same(rig.shadow, PageTableShadow(rig.shadow.scene))
