"""Counts the table entries that the hypervisor writes between two preemption points. Helper of the oracle `work`.

Work units count all accesses, so their bound leaves room for the costliest call; a call that changes cheap entries
could go far beyond its quota of pages before it comes near. Entries of tables are what the quota is about. A table that
is filled, scrubbed or copied as a whole is one write. And each word that is accessed must count as work, or the bound
on work means nothing. Audited runs only, since each access is looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.machine.addresses import PAGE_SHIFT, WORD

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

QUOTA: Final = 64
"""Pages that a long call may work on between two preemption points (ABI.md)."""
BOUND: Final = 4 * QUOTA
"""Entries that may be written: for each page two that map it, and two that name new or freed tables."""
TABLE: Final = FrameState.TABLE << 8


class TableWrites:
    """Listens to the announcements of one hypervisor, and reports the rules `entries` and `units` of the oracle."""

    __snapshot_leaf__ = True
    __slots__ = ("_entries", "_report", "_scene", "_units", "_words", "_work")
    oracle = "work"

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        self._scene: Final = scene
        self._report: Final = scene.report
        self._work: Final = scene.hypervisor.host.work
        self._entries = 0
        self._words = 0
        """Words accessed in this exit."""
        self._units = 0
        """Units of work when it began."""

    def hook(self, on: bool) -> None:
        """Nothing is hooked: the accesses are announced."""

    def reset(self) -> None:
        """Count from zero."""
        self._entries = self._words = self._units = 0

    def host_exception(self, fault: BaseException) -> None:
        """What was written before does not matter any more."""
        self._entries = 0

    def exit_started(self, vcpu: VCpu) -> None:
        """Count from zero."""
        self._entries = self._words = 0
        self._units = self._work.units

    def host_access(self, hpa: int, size: int, write: bool) -> None:
        """Count an access to a word, and a write of one entry."""
        self._words += size == WORD
        if write and size == WORD and 0 <= hpa < self._scene.memory_size:
            self._entries += self._scene.owner_and_state[hpa >> PAGE_SHIFT] & 0xFF00 == TABLE

    def preemption_point(self) -> None:
        """Check what was written since the last one."""
        self._check()

    def exit_finished(self, vcpu: VCpu) -> None:
        """Check what was written since the last preemption point, and that all work was counted."""
        self._check()
        counted = self._work.units - self._units
        if counted < self._words:
            text = f"the hypervisor accesses {self._words} words in an exit, and counts {counted} units of work"
            self._report(self.oracle, "units", text)

    def _check(self) -> None:
        if self._entries > BOUND:
            text = f"the hypervisor writes {self._entries} table entries without a preemption point, bound {BOUND}"
            self._report(self.oracle, "entries", text)
        self._entries = 0
