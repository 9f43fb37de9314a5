"""Checks the order within a step: an entry is written before it is flushed, and before its frame loses the pin.

After the step everything is consistent again, so a check at that time sees nothing. But until then another processor
could have used, or cached again, what was to be taken away. Flushes are hooked, and each word that the host writes is
compared, in audited runs only: see `access_log`. Helper of the oracle `stale`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hvfuzz.hypervisor.memory.frames import COUNT_MASK, PINS_SHIFT
from hvfuzz.hypervisor.memory.table_tree import FOREIGN
from hvfuzz.machine.addresses import PAGE_SHIFT, WORD, WORDS_PER_PAGE
from hvfuzz.machine.mmu.tlb import Tlb
from hvfuzz.machine.vtd.iommu import Iommu
from hvfuzz.oracles.host.hooked_hardware import EVERYTHING, hooked_caches
from hvfuzz.oracles.scene.call_stack import NO_DOMAIN, TABLE
from hvfuzz.oracles.shadow.changes import ADDRESS, DMA, DMA_RIGHTS, EPT_RIGHTS, LARGE, Table, is_link, name_of

if TYPE_CHECKING:
    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

STATE_FIELD: Final = 0xFF00


class FlushOrder:
    """Hooks the caches of one machine, and reports the rules `order` and `leaf` of the oracle."""

    __snapshot_leaf__ = True
    __slots__ = ("_counted", "_flushed", "_hooked", "_iommu", "_last", "_now", "_old", "_scene", "_shadow", "_tlb")
    oracle = "stale"

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        self._scene: Final = scene
        self._shadow: Final = shadow
        self._tlb: Final = scene.machine.tlb
        self._iommu: Final = scene.machine.iommu
        self._hooked: Final = hooked_caches(self._flush, self._space_of)
        self._now = 0
        """Number of the last write or flush."""
        self._old: dict[int, int] = {}
        """Word of a table -> its value at the start of the step."""
        self._last: dict[int, int] = {}
        """Word of a table -> number of its last write."""
        self._flushed: dict[tuple[int, int], int] = {}
        """(space, page) -> number of its last flush."""
        self._counted: tuple[int, int] | None = None
        """(hfn, frame word before) of the last announced write of a frame word."""

    def hook(self, on: bool) -> None:
        """Watch each flush from now on, or stop."""
        self._tlb.__class__, self._iommu.__class__ = self._hooked if on else (Tlb, Iommu)

    def reset(self) -> None:
        """Forget all writes and flushes."""
        self._now = 0
        self._counted = None
        self._forget()

    def _forget(self) -> None:
        self._old.clear()
        self._last.clear()
        self._flushed.clear()

    def host_access(self, hpa: int, size: int, write: bool) -> None:
        """Note a write to a table or a frame word. The write announced before this one is done: check it."""
        if self._counted is not None:
            self._check_pins(*self._counted)
            self._counted = None
        if not write or size != WORD or not 0 <= hpa < self._scene.memory_size:
            return
        word = hpa >> 3
        hfn = word - self._scene.frame_words
        if 0 <= hfn < self._scene.machine.memory.frames:
            self._counted = (hfn, self._scene.words[word])
        elif self._scene.frame_word(hpa >> PAGE_SHIFT) & STATE_FIELD == TABLE << 8:
            self._now += 1
            self._old.setdefault(word, self._scene.words[word])
            self._last[word] = self._now

    def _space_of(self, root: int) -> int:
        """The space that the EPT at `root` translates for, NO_DOMAIN if there is none."""
        return next((space for space, hfn in self._shadow.roots.items() if hfn << PAGE_SHIFT == root), NO_DOMAIN)

    def _flush(self, space: int, page: int) -> None:
        self._now += 1
        if page == EVERYTHING:
            self._scene.calls.flushes += 1
        self._flushed[space, page] = self._now

    def step(self, step: Any) -> None:
        """A step starts, perhaps within another one."""
        self._check_step()

    def stepped(self, step: Any) -> None:
        """A step is done."""
        self._check_step()

    def _check_step(self) -> None:
        if self._counted is not None:
            self._check_pins(*self._counted)
            self._counted = None
        for word, old in self._old.items():
            table = self._shadow.tables.get(word >> 9)
            if table is not None and _is_taken(table, old, self._scene.words[word]):
                self._check_flush(table, word)
        self._forget()

    def _check_flush(self, table: Table, word: int) -> None:
        """The last flush of a removed or narrowed leaf, if there was one, must come after the write."""
        space = table.space
        page = table.page + ((word & WORDS_PER_PAGE - 1) << 9 * (table.level - 1))
        covering = ((EVERYTHING, EVERYTHING), (space, EVERYTHING), (space, page))
        if 0 < max(self._flushed.get(key, 0) for key in covering) < self._last[word]:
            text = f"{name_of(space)}, page {page:#x}: flushed before its entry was written, and not after"
            self._scene.report(self.oracle, "order", text)

    def _check_pins(self, hfn: int, before: int) -> None:
        """If a written frame word has fewer pins now, they must still cover the leaves of grant mappings."""
        left = self._scene.frame_word(hfn) >> PINS_SHIFT & COUNT_MASK
        if left >= before >> PINS_SHIFT & COUNT_MASK:
            return
        words = self._scene.words
        foreign = 0
        for word in self._shadow.leaves.get(hfn, ()):
            entry = words[word]
            table = self._shadow.tables.get(word >> 9)
            if table is not None and entry & FOREIGN and (entry & ADDRESS) >> PAGE_SHIFT == hfn:
                foreign += bool(entry & (DMA_RIGHTS if table.space & DMA else EPT_RIGHTS))
        if foreign > left:
            text = f"{left} pins are left while {foreign} leaves of grant mappings name it"
            self._scene.report(self.oracle, "leaf", f"{self._scene.describe(hfn)}: {text}")


def _is_taken(table: Table, old: int, new: int) -> bool:
    """Whether replacing `old` by `new` takes away a leaf, its frame, or one of its rights."""
    rights = DMA_RIGHTS if table.space & DMA else EPT_RIGHTS
    if not old & rights or is_link(old, table.level):
        return False
    if table.level > 1 and new & rights and not new & LARGE:
        return False  # A large leaf was split; the table maps the same frames.
    return bool((old ^ new) & ADDRESS or old & ~new & rights)
