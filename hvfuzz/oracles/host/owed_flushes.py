"""Flushes that the hypervisor owes: known from what was changed alone, whether or not any cache holds it.

    entry removed, narrowed, or given another   INVEPT of the space (SDM Vol. 3C, 29.4.3.3), or an IOTLB invalidation
    address or size                             of each page (VT-d spec 6.5.1.2)
    table unlinked                              the same: walkers may have cached its address (SDM Vol. 3C, 29.4.2;
                                                VT-d spec 6.5.1.2, invalidation hint clear)
    context entry removed or replaced           a context-cache invalidation of the device (6.5.1.1), then an IOTLB
                                                invalidation of the old domain id

No flush is owed for what was absent or malformed before, since neither is cached (SDM Vol. 3C, 29.4.2; VT-d spec 6.1,
caching mode clear), nor for an additional right, since a walk precedes the fault (SDM Vol. 3C, 29.4.3.3).

A flush may come later than the write, and one flush may serve many writes. It is due before a frame that lost its leaf
is scrubbed, freed, given away or loses a count; before an unlinked table is written; and before the call ends or
reaches a preemption point, since other domains may run from then on, and rely on the change. Helper of `host_writes`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hvfuzz.oracles.host.hooked_hardware import EVERYTHING, dma_space
from hvfuzz.oracles.host.live_tables import EntryChange
from hvfuzz.oracles.shadow.changes import Context, is_link, malformation, name_of


class _Owed:
    """A flush of pages or tables of one space that is owed since a write."""

    __slots__ = ("early", "frames", "page", "pages", "space", "tables", "what")

    def __init__(self, space: int, page: int, pages: dict[int, int], tables: dict[int, range], what: str) -> None:
        self.early = False
        """Whether it was flushed within the step, but before the write."""
        self.space: Final = space
        self.page: Final = page
        """The first page that the written entry covers."""
        self.pages: Final = pages
        """Page -> the frame that it was mapped to."""
        self.tables: Final = tables
        """Hfn of an unlinked table -> the pages that it covered."""
        self.frames: Final = frozenset(pages.values())
        self.what: Final = what

    def concerns(self, hfn: int) -> bool:
        """Whether hardware may still reach the frame, or walk it, by what is not flushed."""
        return hfn in self.tables or (hfn in self.frames and hfn in self.pages.values())

    def flush(self, page: int) -> bool:
        """Note the flush of one page, or of EVERYTHING; whether anything was owed there."""
        if page == EVERYTHING:
            self.pages.clear()
            self.tables.clear()
            return True
        # Any page below a table takes the cached entries on its path along.
        tables = [hfn for hfn, covered in self.tables.items() if page in covered]
        for hfn in tables:
            del self.tables[hfn]
        return self.pages.pop(page, None) is not None or bool(tables)


class OwedFlushes:
    """What is owed by one hypervisor. `report`(rule, message) is called when it is due."""

    __slots__ = ("_contexts", "_early", "_owed", "_report")

    def __init__(self, report: Callable[[str, str], None]) -> None:
        self._report: Final = report
        self._owed: list[_Owed] = []
        self._contexts: dict[int, tuple[int, bool]] = {}
        """Bdf -> (domain id of the old context entry, whether the context cache was invalidated since)."""
        self._early: dict[tuple[int, int], None] = {}
        """(space, page) of each flush within this step that nothing was owed to."""

    def reset(self) -> None:
        """Nothing is owed."""
        self._owed.clear()
        self._contexts.clear()
        self._early.clear()

    def step_changed(self) -> None:
        """A step starts or ends."""
        self._early.clear()

    # What makes a flush necessary.

    def entry_changed(self, change: EntryChange) -> None:
        """An entry was written. Pages that keep their frame and rights owe nothing, unless the size changed."""
        space, level, _ = change.table
        if not change.old or malformation(space, level, change.old):
            return
        after = change.after
        resized = change.new and is_link(change.old, level) != is_link(change.new, level)
        pages = {
            page: frame
            for page, (frame, rights) in change.before.items()
            if resized or (now := after.get(page)) is None or now[0] != frame or rights & ~now[1]
        }
        tables = {
            hfn: range(table.page, table.page + (1 << 9 * table.level))
            for hfn, table in change.unlinked
            if (hfn, table) not in change.linked
        }
        if pages or tables:
            what = f"{change.where}: entry {change.old:#x} became {change.new:#x}"
            owed = _Owed(space, change.page, pages, tables, what)
            page = next(iter(pages), change.page)
            covering = ((EVERYTHING, EVERYTHING), (space, EVERYTHING), (space, page))
            owed.early = any(flush in self._early for flush in covering)
            self._owed.append(owed)

    def context_changed(self, bdf: int, old: Context | None, new: Context | None) -> None:
        """A context entry was written."""
        if bdf in self._contexts and new is not None:
            self.due_for_device(bdf, "it was given to a domain again")
        if old is not None:
            self._contexts[bdf] = (old.did, False)

    # Flushes.

    def flush(self, space: int, page: int) -> None:
        """Translations of a space, or of one page of it, are dropped from all caches; either may be EVERYTHING."""
        served = False
        for owed in self._owed:
            if space in (EVERYTHING, owed.space):
                served |= owed.flush(page)
        self._owed = [owed for owed in self._owed if owed.pages or owed.tables]
        if page == EVERYTHING:
            for bdf, (did, invalidated) in [*self._contexts.items()]:
                if invalidated and space in (EVERYTHING, dma_space(did)):
                    del self._contexts[bdf]
                    served = True
        if not served:
            self._early[space, page] = None

    def flush_context(self, bdf: int | None, did: int | None, ignore: int) -> None:
        """Context entries are dropped from the cache: see `Iommu.invalidate_context`."""
        for device, (old, _) in self._contexts.items():
            if (bdf is None or not (device ^ bdf) & ~ignore) and did in (None, old):
                self._contexts[device] = (old, True)

    # When it is due.

    def due_for_frame(self, hfn: int, why: str) -> None:
        """The frame is about to be used otherwise; `why` says how."""
        for owed in self._owed:
            if owed.concerns(hfn):
                self._tell(owed, why)
        self._owed = [owed for owed in self._owed if not owed.concerns(hfn)]

    def due_for_device(self, bdf: int, why: str) -> None:
        """The device is about to be used otherwise."""
        if bdf in self._contexts:
            did, invalidated = self._contexts.pop(bdf)
            cache = f"the IOTLB for domain id {did}" if invalidated else "the context cache"
            self._report(
                "unflushed", f"device {bdf:#06x}: its context entry changed, then {why} before {cache} was flushed"
            )

    def due(self, why: str) -> None:
        """Everything is due."""
        for owed in self._owed:
            self._tell(owed, why)
        self._owed.clear()
        for bdf in [*self._contexts]:
            self.due_for_device(bdf, why)

    def _tell(self, owed: _Owed, why: str) -> None:
        pages = [*owed.pages]
        if owed.early:
            page = pages[0] if pages else owed.page
            text = f"{name_of(owed.space)}, page {page:#x}: flushed before its entry was written, and not after"
            self._report("order", text)
            return
        number = "1 page" if len(pages) == 1 else f"{len(pages)} pages"
        lost = f", by which {number} from {pages[0]:#x} on lost a frame, a right or a size" if pages else ""
        table = f", which led to the table in frame {next(iter(owed.tables)):#x}" if owed.tables else ""
        self._report("unflushed", f"{owed.what}{lost}{table}; then {why} before a flush")
