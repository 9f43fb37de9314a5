"""What memory holds: each byte of a frame changes only by those whom the frame belongs to, or who act on their behalf.

Ownership judges who reaches a frame, and the specification what a call returns. This oracle looks at the memory itself.
In every run: reserved memory of a device that changes hands. In audited runs `memory_model.MemoryModel` follows each
write, and reports the other rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE
from hvfuzz.machine.physical_memory import ZERO_PAGE
from hvfuzz.oracles.framework.oracle import Oracle, Rules
from hvfuzz.oracles.scene.scene import Scene

if TYPE_CHECKING:
    from hvfuzz.oracles.shadow.changes import Change
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

CONTENTS: Final = "contents"


class Contents(Oracle):
    """Memory holds what its owner, the owner's devices, and calls on the owner's behalf have put there."""

    name = CONTENTS
    shadowed = True
    rules: ClassVar[Rules] = {
        "foreign": "a byte of a domain changes only by its vCPUs, its devices, a copy on its behalf, or a shared page",
        "taken": "the hypervisor reads a domain's memory only on its behalf, or through a page that it shares",
        "host": "a byte of the hypervisor or of its tables changes only by writes that the hypervisor announced",
        "canary": "the secret words of the hypervisor, and what stands beside them, never change",
        "free": "a free frame stays zero, a page in a paging pool stays poisoned",
        "reserved": "reserved memory is written only by its device, and is zero when the device changes hands",
    }

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        super().__init__(scene, shadow)
        self._reserved: Final = [
            (scene.machine.devices[device].bdf, base >> PAGE_SHIFT, pages)
            for device, base, pages in scene.world.reserved
        ]
        """(bdf, first frame, frames) of each region that firmware reserves for a device."""

    def shadow_changed(self, change: Change) -> None:
        """Check the reserved memory of each device that changed hands."""
        if not change.contexts or not self._reserved:
            return
        read = self.scene.machine.memory.read
        for bdf, first, pages in self._reserved:
            if bdf not in change.contexts:
                continue
            for hfn in range(first, first + pages):
                page = read(hfn << PAGE_SHIFT, PAGE_SIZE)
                if page != ZERO_PAGE:
                    at = next(offset for offset, byte in enumerate(page) if byte)
                    where = f"page {hfn - first + 1} of {pages}, frame {hfn:#x}"
                    text = f"device {bdf:#06x} changed hands, and its reserved memory ({where}) is not zero"
                    self.report("reserved", f"{text}: {page[at]:#04x} at offset {at:#x}")
                    return
