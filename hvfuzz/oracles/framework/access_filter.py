"""Picks out the accesses that deserve a closer look, and raises a separate event for each of them.

Nearly every access is by a vCPU, or by the hypervisor on its behalf, within one frame that its domain owns. The oracles
that judge the other ones listen to `invalid_copy`, `foreign_copy`, `dma_or_foreign_access` and `guest_load`.
"""

from __future__ import annotations

from typing import Any, Final

from hvfuzz.abi.boot import HYPERVISOR_HOLE_END
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, READ, U64
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.oracles.framework.listeners import Listener, nothing
from hvfuzz.oracles.scene.scene import Scene

LOW_END: Final = 1 << 47
"""First address above the lower canonical half; the upper half begins with the hypervisor's hole."""


class AccessFilter:
    """Listens to all copies and accesses of one system. The suite sets the listeners of the four events it raises."""

    __snapshot_leaf__ = True
    __slots__ = (
        "_own_frame",
        "_owner_and_state",
        "_size",
        "dma_or_foreign_access",
        "foreign_copy",
        "guest_load",
        "invalid_copy",
    )

    def __init__(self, scene: Scene) -> None:
        self._owner_and_state: Final = scene.owner_and_state
        self._own_frame: Final = scene.own_frame
        self._size: Final = scene.memory_size
        self.invalid_copy: Listener = nothing
        self.foreign_copy: Listener = nothing
        self.dma_or_foreign_access: Listener = nothing
        self.guest_load: Listener = nothing

    def guest_copy(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        """Raise `invalid_copy` and `foreign_copy`."""
        if (gva < HYPERVISOR_HOLE_END and gva + size > LOW_END) or gva + size > U64 + 1:
            self.invalid_copy(vcpu, gva, hpa, size, write)
        if (
            (hpa & PAGE_MASK) + size > PAGE_SIZE
            or not 0 <= hpa < self._size
            or self._owner_and_state[hpa >> PAGE_SHIFT] not in self._own_frame[vcpu.domain]
        ):
            self.foreign_copy(vcpu, gva, hpa, size, write)

    def memory_access(self, initiator: Any, hpa: int, size: int, access: int) -> None:
        """Raise `dma_or_foreign_access` and `guest_load`."""
        if type(initiator) is not VCpu:
            self.dma_or_foreign_access(initiator, hpa, size, access)
            return
        if (
            (hpa & PAGE_MASK) + size > PAGE_SIZE
            or hpa >= self._size
            or self._owner_and_state[hpa >> PAGE_SHIFT] not in self._own_frame[initiator.domain]
        ):
            self.dma_or_foreign_access(initiator, hpa, size, access)
        if access == READ:
            self.guest_load(initiator, hpa, size)
