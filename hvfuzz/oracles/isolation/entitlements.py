"""What a domain may access: its own frames, frames granted to it, and the memory and registers of its devices.

Every answer is read from the present frame words and the hypervisor's present tables. Helper of the oracle `ownership`;
reports nothing itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.oracles.scene.device_windows import FIRST_FRAME
from hvfuzz.oracles.shadow.changes import DMA

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Mapping
    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.changes import Leaf
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

RESERVED: Final = FrameState.RESERVED << 8
OWNED_OR_SHARED: Final = (FrameState.OWNED << 8, FrameState.SHARED << 8)

ANYWHERE: Final = -1
"""Sentinel: any page."""


def is_owned(word: int) -> bool:
    """Whether a frame with this word belongs to a domain, shared or not."""
    return word & 0xFF00 in OWNED_OR_SHARED


class Entitlements:
    """The access rights of all domains and devices of one machine. A space is a domain, plus `DMA` for its devices."""

    __slots__ = ("_scene", "_shadow", "reserved")

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        self._scene: Final = scene
        self._shadow: Final = shadow
        self.reserved: Final = [
            (scene.machine.devices[device].bdf, base >> PAGE_SHIFT, pages)
            for device, base, pages in scene.world.reserved
        ]
        """(bdf, first page, pages) of each region that firmware reserves for a device."""

    def owns(self, number: int, hfn: int) -> bool:
        """Whether the frame belongs to the domain, shared or not."""
        word = self._scene.frame_word(hfn)
        return word & 0xFF == number and is_owned(word)

    def may_access(self, space: int, hfn: int, access: int, page: int = ANYWHERE) -> bool:
        """Whether a grant mapping in that space, at that page of a domain, allows the access."""
        if not is_owned(self._scene.frame_word(hfn)):
            return False
        number = space & ~DMA
        for mapping in list.__iter__(self._shadow.domains[number].handles):
            if (
                mapping is not None
                and mapping.frame == hfn
                and (mapping.device if space & DMA else mapping.host)
                and not access & ~mapping.rights
                and page in (ANYWHERE, mapping.gfn)
            ):
                return True
        return False

    def granted(self, leaf: Leaf, hfn: int, owner: int) -> int | None:
        """The rights that a live grant by `owner` gives at the page of this leaf; None without such a grant."""
        if leaf.level != 1:
            return None
        for mapping in self._shadow.sides.get((leaf.space, leaf.page), ()):
            if mapping.frame == hfn and mapping.granter == owner:
                entry = self._entry(mapping)
                if entry is not None and entry[0] == leaf.space & ~DMA and entry[1] == hfn:
                    return mapping.rights & entry[2]
        return None

    def _entry(self, mapping: Mapping) -> tuple[int, int, int] | None:
        """(grantee, frame, rights) of the live grant entry that a mapping was made from, if it still exists."""
        grants = self._shadow.grants
        if not (0 <= mapping.granter < len(grants) and 0 <= mapping.ref < len(grants[mapping.granter])):
            return None
        entry = grants[mapping.granter][mapping.ref]
        return None if entry is None else (entry.to, entry.frame, entry.rights)

    def is_reserved_for(self, number: int, hfn: int) -> bool:
        """Whether firmware reserves the frame for a device of the domain, and the frame is in state RESERVED."""
        return self._scene.frame_word(hfn) & 0xFF00 == RESERVED and any(
            first <= hfn < first + pages and self._shadow.device_domain(bdf) == number
            for bdf, first, pages in self.reserved
        )

    def has_registers(self, number: int, hfn: int) -> bool:
        """Whether the frame number stands for the registers of a device of the domain."""
        devices = self._scene.machine.devices
        at = hfn - FIRST_FRAME
        return 0 <= at < len(devices) and self._shadow.device_domain(devices[at].bdf) == number
