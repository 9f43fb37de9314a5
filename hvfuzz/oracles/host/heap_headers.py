"""The header of each heap page, and the control area, stay as they were made. Helper of the oracle `host_memory`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hvfuzz.hypervisor.core.hypervisor import CONTROL_AREA
from hvfuzz.hypervisor.memory.allocator import HEAP_CANARY, HEAP_HEADER
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, WORD, WORDS_PER_PAGE
from hvfuzz.oracles.scene.scene import Scene
from hvfuzz.oracles.shadow.rewindable import ShadowMap

HYPERVISOR: Final = int(FrameState.HYPERVISOR)
CONTROL: Final = CONTROL_AREA >> PAGE_SHIFT
"""Frame of the control area, which the hypervisor writes only at boot."""
OUTSIDE_HEADER: Final = PAGE_MASK & ~(HEAP_HEADER - 1)
"""Bits of an address that are all clear in the header of a heap page."""


# One text each for a write that was seen and for its effect in an audit, which then says nothing new.
CONTROL_CHANGED: Final = "the hypervisor changes its control area after boot"


def header_changed(hfn: int) -> str:
    """The message about a changed header."""
    return f"the hypervisor changes the header of heap page {hfn:#x}"


class HeapHeaders:
    """Remembers the header of each heap page. `report`(rule, message) is that of the oracle."""

    __slots__ = ("_control", "_headers", "_memory", "_report", "_scene")

    def __init__(self, scene: Scene, report: Callable[[str, str], None]) -> None:
        self._scene: Final = scene
        self._memory: Final = scene.machine.memory
        self._report: Final = report
        self._headers: Final[ShadowMap[int, bytes]] = ShadowMap()
        """Hfn of a heap page -> its header, from its allocation on."""
        self._control = b""

    def attach(self) -> None:
        """Read the control area and the headers of all heap pages: this is the base.

        Each heap page of the booted hypervisor has a secret word of its own.
        """
        secrets: dict[bytes, int] = {}
        scene, frames = self._scene, self._memory.frames
        self._control = self._memory.read(CONTROL_AREA, PAGE_SIZE)
        # The control area and the frame table lie at fixed places, below the heap.
        heap = scene.frame_words + frames + WORDS_PER_PAGE - 1 >> 9
        for hfn in range(heap, frames):
            if scene.owner_and_state[hfn] >> 8 == HYPERVISOR:
                self._headers[hfn] = header = self._read(hfn)
                secret = header[HEAP_CANARY : HEAP_CANARY + WORD]
                other = secrets.setdefault(secret, hfn)
                if not any(secret) or other != hfn:
                    self._report("header", f"heap page {hfn:#x} has no secret word of its own in its header after boot")
        self._headers.rebase()

    def reset(self) -> None:
        """Return to the base."""
        self._headers.reset()

    def _read(self, hfn: int) -> bytes:
        return self._memory.read(hfn << PAGE_SHIFT, HEAP_HEADER)

    def allocated(self, hfn: int) -> None:
        """A heap page is in use from now on, with its header written."""
        header = self._read(hfn)
        if not any(header[HEAP_CANARY : HEAP_CANARY + WORD]):
            self._report("header", f"heap page {hfn:#x} has no secret word in its header")
        self._headers.put(hfn, header)

    def freed(self, hfn: int) -> None:
        """A frame, which may have been a heap page, is free."""
        if hfn in self._headers:
            self._headers.drop(hfn)

    def written(self, hfn: int) -> None:
        """The first bytes of a hypervisor frame are written: legal only before the page is announced as allocated."""
        if hfn == CONTROL:
            self._report("header", CONTROL_CHANGED)
        elif hfn in self._headers:
            self._report("header", header_changed(hfn))

    def audit(self) -> None:
        """Compare all headers and the control area with what they were."""
        if self._memory.read(CONTROL_AREA, PAGE_SIZE) != self._control:
            self._report("header", CONTROL_CHANGED)
        for hfn, header in sorted(self._headers.items()):
            if self._read(hfn) != header:
                self._report("header", header_changed(hfn))
