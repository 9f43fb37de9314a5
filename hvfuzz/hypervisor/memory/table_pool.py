"""Pools of table pages: each domain pays for its translation tables out of pages set aside for it at boot."""

from __future__ import annotations

from hvfuzz.hypervisor.core.host import HostMemory
from hvfuzz.hypervisor.memory.frames import FrameState, FrameTable

POISON = 0xF5F5_F5F5_F5F5_F502
"""Every word of a pooled table page: a walk that still descends into it finds reserved bits set."""

_TABLE = FrameState.TABLE  # a member of an enumeration takes ten times as long to look up as a global
_POOL = FrameState.POOL


class TablePool:
    """The free table pages of one domain: `pages` is its pool of frames, shared by its trees."""

    __slots__ = ("frames", "host", "owner", "pages")

    def __init__(self, host: HostMemory, frames: FrameTable, owner: int, pages: list[int]) -> None:
        self.host = host
        self.frames = frames
        self.owner = owner
        self.pages = pages

    def lacks(self, pages: int) -> bool:
        """Whether a request of `pages` table pages is refused. A check asks once, for all that its steps will take."""
        if pages > len(self.pages):
            return True
        shortage = self.host.machine.shortage
        return shortage.at >= 0 and shortage.denies(pages)

    def take(self) -> int:
        """Take a page from the pool and zero it; returns its frame, or -1 if the pool is empty."""
        if not self.pages:
            return -1
        hfn = self.pages.pop()
        self.frames.assign(hfn, self.owner, _TABLE)
        self.host.observer.frame_allocated(hfn, self.owner, _TABLE)
        self.host.fill(hfn)
        return hfn

    def put(self, hfn: int) -> None:
        """Poison a table page that is no longer referenced, and return it to the pool."""
        self.host.fill(hfn, POISON)
        self.frames.assign(hfn, self.owner, _POOL)
        self.pages.append(hfn)
        self.host.observer.frame_freed(hfn)
