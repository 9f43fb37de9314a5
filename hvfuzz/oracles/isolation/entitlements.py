"""What a domain has a title to: its own frames, what others grant it, and what comes with its devices.

Read from the hypervisor's tables and from the frame words, of this moment: an oracle's part, not one itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.machine.devices.register_windows import device_at
from hvfuzz.oracles.shadow.changes import DMA

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Mapping
    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.changes import Leaf
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

RESERVED: Final = FrameState.RESERVED << 8
OWNED_OR_SHARED: Final = (FrameState.OWNED << 8, FrameState.SHARED << 8)


def is_owned(word: int) -> bool:
    """Whether a frame with this word is a domain's, shared or not."""
    return word & 0xFF00 in OWNED_OR_SHARED


class Entitlements:
    """Says, of one machine, who may touch what. A space is a domain's number, with `DMA` for its devices."""

    __slots__ = ("_scene", "_shadow", "reserved")

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        self._scene: Final = scene
        self._shadow: Final = shadow
        self.reserved: Final = [
            (scene.machine.devices[device].bdf, base >> PAGE_SHIFT, pages)
            for device, base, pages in scene.world.reserved
        ]
        """(bdf, first page, pages) of each region that firmware keeps."""

    def owns(self, number: int, hfn: int) -> bool:
        """Whether the frame is the domain's own, shared or not."""
        word = self._scene.frame_word(hfn)
        return word & 0xFF == number and is_owned(word)

    def may(self, space: int, hfn: int, access: int) -> bool:
        """Whether a grant mapping on that side allows the access, by the hypervisor's tables of this moment."""
        if not is_owned(self._scene.frame_word(hfn)):
            return False
        number = space & ~DMA
        for mapping in list.__iter__(self._shadow.domains[number].handles):
            if (
                mapping is not None
                and mapping.frame == hfn
                and (mapping.device if space & DMA else mapping.host)
                and not access & ~mapping.rights
            ):
                return True
        return False

    def may_copy(self, number: int, hfn: int, access: int) -> bool:
        """Whether somebody granted the frame to the domain, mapped or not."""
        if not is_owned(self._scene.frame_word(hfn)):
            return False
        for domain in self._shadow.domains:
            for entry in list.__iter__(domain.grants):
                if entry is not None and entry.frame == hfn and entry.to == number and entry.rights & access:
                    return True
        return False

    def granted(self, leaf: Leaf, hfn: int, owner: int) -> int | None:
        """The rights that a live grant of `owner` gives at the place of this leaf; None if there is none."""
        if leaf.level != 1:
            return None
        for mapping in self._shadow.sides.get((leaf.space, leaf.page), ()):
            if mapping.frame == hfn and mapping.granter == owner:
                entry = self._entry(mapping)
                if entry is not None and entry[0] == leaf.space & ~DMA and entry[1] == hfn:
                    return mapping.rights & entry[2]
        return None

    def _entry(self, mapping: Mapping) -> tuple[int, int, int] | None:
        """(grantee, frame, rights) of the live entry that a mapping was made from."""
        grants = self._shadow.grants
        if not (0 <= mapping.granter < len(grants) and 0 <= mapping.ref < len(grants[mapping.granter])):
            return None
        entry = grants[mapping.granter][mapping.ref]
        return None if entry is None else (entry.to, entry.frame, entry.rights)

    def keeps(self, number: int, hfn: int) -> bool:
        """Whether firmware keeps the frame for a device that the domain has, and the frame table knows."""
        return self._scene.frame_word(hfn) & 0xFF00 == RESERVED and any(
            first <= hfn < first + pages and self._shadow.device_domain(bdf) == number
            for bdf, first, pages in self.reserved
        )

    def has_registers(self, number: int, hfn: int) -> bool:
        """Whether there are, in place of a frame, the registers of a device that the domain has."""
        device = device_at(self._scene.machine, hfn << PAGE_SHIFT)
        return device is not None and self._shadow.device_domain(device.bdf) == number
