"""Where a copy at a guest address may go: what the guest's tables give, and what the processor may still have cached.

The TLB is no witness by itself, since the hypervisor fills it by its own translations. An entry counts

- if it is older than the exit: then it is judged in audited runs, when it is filled (`fills`);
- if it was filled in the exit, and the tables still give the same; or if they may have changed since it was filled.

The same holds for the cached entries that name tables.

A full cache evicts entries while the hypervisor looks up the pages of a copy. Therefore the caches are copied at each
event if they are crowded. And all pages of a result are looked up before the first one is written, so that where
the second one leads is found out before the first copy, whose bytes may be a page table.
Helper of the oracle `fetch`; reports nothing itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, READ, WRITE
from hvfuzz.machine.mmu.ept import EP4TA
from hvfuzz.machine.mmu.paging import CR3_PCID, CR4_PCIDE
from hvfuzz.oracles.contract.spec import valid_range
from hvfuzz.oracles.scene.excuses import CHANGED, EVICTED, OLDER, SECOND_PAGE
from hvfuzz.oracles.scene.running_call import NO_GVA
from hvfuzz.oracles.shadow.guest_walk import arrivals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.machine.mmu.paging_cache import CombinedTable, CombinedTableKey
    from hvfuzz.machine.mmu.tlb import CombinedEntry, CombinedKey
    from hvfuzz.oracles.scene.running_call import RunningCall
    from hvfuzz.oracles.scene.scene import Scene

MARGIN: Final = 24
"""Most entries of one cache that are made between two events: by the lookups of a copy, and by the ops of a race."""


class Translations:
    """Judges the translations of one machine; only those of the vCPU whose exit is being handled."""

    __slots__ = (
        "_before",
        "_before_tables",
        "_calls",
        "_capacity",
        "_excused",
        "_kept",
        "_kept_tables",
        "_losses",
        "_machine",
        "_next",
        "_tlb",
    )

    def __init__(self, scene: Scene) -> None:
        self._machine: Final = scene.machine
        self._tlb: Final = scene.machine.tlb
        self._calls: Final = scene.calls
        self._excused: Final = scene.excused
        self._before: dict[CombinedKey, CombinedEntry] = {}
        """The TLB at the start of the exit, and what was found right since."""
        self._before_tables: dict[CombinedTableKey, CombinedTable] = {}
        """The paging-structure cache at the start of the exit."""
        self._kept: dict[CombinedKey, CombinedEntry] = {}
        """The TLB at the last event, if a cache was crowded, or at the start of the exit."""
        self._kept_tables: dict[CombinedTableKey, CombinedTable] = {}
        """The paging-structure cache at that time."""
        self._next: tuple[int, tuple[int, ...]] = (NO_GVA, ())
        """(start of a page, where it led) when the page before it was about to be written to its end."""
        self._capacity = self._losses = 0
        """The capacity of the caches at the start of the exit, and how often entries had been dropped by chance."""

    def reset(self) -> None:
        """Forget what was cached."""
        self._kept, self._before = {}, {}
        self._kept_tables, self._before_tables = {}, {}
        self._capacity = self._losses = 0
        self._next = (NO_GVA, ())

    def exit_started(self) -> None:
        """Note what is cached: the guest's own accesses have filled it."""
        tlb = self._tlb
        self._kept = self._before = tlb.combined.copy()
        self._kept_tables = self._before_tables = tlb.structures.combined.copy()
        self._capacity, self._losses = tlb.capacity, tlb.losses
        self._next = (NO_GVA, ())

    @property
    def crowded(self) -> bool:
        """Whether entries may be evicted before the next event, or a race has just dropped some."""
        tlb = self._tlb
        if tlb.losses != self._losses:
            return True
        room = tlb.capacity - MARGIN
        return len(tlb.combined) > room or len(tlb.structures.combined) > room or tlb.capacity != self._capacity

    def keep(self) -> None:
        """Copy the caches, if they are crowded."""
        if self.crowded:
            self._kept, self._kept_tables = self._tlb.combined.copy(), self._tlb.structures.combined.copy()

    def counts(self, vcpu: VCpu, gva: int, hpa: int, write: bool, key: CombinedKey, entry: CombinedEntry) -> bool:
        """Whether the `entry` of the TLB for `key`, which leads to `hpa` but is not `known`, counts."""
        if not self._changed:
            if hpa not in self._present(vcpu, gva, WRITE if write else READ):
                return False
            self._before[key] = entry
        else:
            self._excused(CHANGED)
        return True

    def known(self, key: CombinedKey, entry: CombinedEntry) -> bool:
        """Whether the TLB had this entry at the start of the exit, or it was found right since."""
        if self._before.get(key) is not entry:
            return False
        self._excused(OLDER)
        return True

    @property
    def _changed(self) -> bool:
        """Whether the guest's tables may have changed in this exit: by a race, by a step, or by a copy to the guest."""
        if self._calls.interrupted:
            return True
        call: RunningCall | None = self._calls.current
        while call is not None:
            if call.applied or call.writes or call.transfers:
                return True
            call = call.outer
        return False

    def lead(self, vcpu: VCpu, gva: int, hpa: int, write: bool) -> bool:
        """Whether the tables, or what may have been cached when the page was looked up, lead from `gva` to `hpa`."""
        if hpa in self._present(vcpu, gva, WRITE if write else READ):
            return True
        start, places = self._next
        if write and gva == start and hpa in places:
            self._excused(SECOND_PAGE)
            return True
        if hpa in self._kept_places(vcpu, gva, WRITE if write else READ):
            self._excused(EVICTED)
            return True
        return False

    def page_filled(self, vcpu: VCpu, gva: int, size: int) -> None:
        """Before the bytes of a write move: find where the next page of a result leads, if it has one."""
        end = gva + size
        if valid_range(gva, size + 1):
            entry = self._tlb.combined.get(tlb_key(vcpu, end))
            places = [*self._present(vcpu, end, WRITE), *self._kept_places(vcpu, end, WRITE)]
            if entry is not None and entry[1] & WRITE:
                places.append(entry[0])
            self._next = (end, tuple(places))

    def _present(self, vcpu: VCpu, gva: int, access: int) -> Iterator[int]:
        """Where `gva` leads by the tables, from the root and from each table that a cached entry which counts names."""
        tables = self._tlb.structures.combined if self._changed else self._before_tables
        return arrivals(self._machine, vcpu, gva, access, tables=tables)

    def _kept_places(self, vcpu: VCpu, gva: int, access: int) -> list[int]:
        """Where `gva` leads by the caches as they were at the last event."""
        places: list[int] = []
        if not self.crowded:
            return places
        entry = self._kept.get(tlb_key(vcpu, gva))
        if entry is not None and entry[1] & access == access:
            places.append(entry[0] | gva & PAGE_MASK)
        return [*places, *arrivals(self._machine, vcpu, gva, access, tables=self._kept_tables)]


def tlb_key(vcpu: VCpu, gva: int) -> CombinedKey:
    """The key of the TLB entry that an access of `vcpu` at `gva` would use."""
    return vcpu.vpid, vcpu.cr3 & CR3_PCID if vcpu.cr4 & CR4_PCIDE else 0, vcpu.eptp & EP4TA, gva >> PAGE_SHIFT
