"""The context entries of all devices as they were last read: which table and which domain id each device uses."""

from __future__ import annotations

from typing import Final

from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.machine.vtd import legacy_mode
from hvfuzz.oracles.scene.scene import Scene
from hvfuzz.oracles.shadow.changes import ADDRESS, Change, Context, context_of
from hvfuzz.oracles.shadow.rewindable import ShadowMap


class ContextEntries:
    """Follows the root table and the context tables of the IOMMU (VT-d spec, sections 9.1 and 9.3)."""

    __slots__ = ("_machine", "_words", "entries", "frames")

    def __init__(self, scene: Scene) -> None:
        self._machine: Final = scene.machine
        self._words: Final = scene.words
        self.entries: Final[ShadowMap[int, Context]] = ShadowMap()
        """Bdf of a device -> its context entry, if that is present."""
        self.frames: Final[dict[int, int]] = {}
        """Hfn of the root table or of a context table -> 0."""

    def find_frames(self) -> None:
        """Find the root table and the context tables; memory reports writes to them from now on."""
        memory = self._machine.memory
        root = self._machine.iommu.root_table
        self.frames[root >> PAGE_SHIFT] = 0
        for device in self._machine.devices:
            low = self._words[(root >> 3) + (device.bdf >> 8) * 2]
            if low & legacy_mode.PRESENT and (low & ADDRESS) < memory.size:
                self.frames[(low & ADDRESS) >> PAGE_SHIFT] = 0
        for hfn in self.frames:
            memory.watched[hfn] = 1

    def follow(self, change: Change) -> None:
        """Read the context entry of every device."""
        root = self._machine.iommu.root_table
        words = self._words
        for device in self._machine.devices:
            bdf = device.bdf
            now: Context | None = None
            low = words[(root >> 3) + (bdf >> 8) * 2]
            if low & legacy_mode.PRESENT and (low & ADDRESS) < self._machine.memory.size:
                index = ((low & ADDRESS) >> 3) + (bdf & 0xFF) * 2
                low, high = words[index], words[index + 1]
                if low & legacy_mode.PRESENT:
                    now = context_of(low, high)
            if now != self.entries.get(bdf):
                change.contexts.append(bdf)
                if now is None:
                    self.entries.drop(bdf)
                else:
                    self.entries.put(bdf, now)
