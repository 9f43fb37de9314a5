"""A window whose writes are not emulated but queued, for whoever models the device in the guest: coalesced MMIO.

The ring lies in the domain's own memory, as KVM's lies in that of its device model (include/uapi/linux/kvm.h,
`struct kvm_coalesced_mmio_ring`): first and last, then SLOTS entries of address, length, padding and data. Both indices
can be anything at any time: each is fetched once, and used only after a look at it. CVE-2019-14821 did not look.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from hvfuzz.abi import device_models
from hvfuzz.abi.boot import COALESCED, COALESCED_GFN, MMIO_BASE, MMIO_SIZE, direct_map
from hvfuzz.hypervisor.devices.device_model import DeviceModel
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.addresses import PAGE_SHIFT

if TYPE_CHECKING:
    from hvfuzz.hypervisor.devices.device_model import Site
    from hvfuzz.hypervisor.memory.guest_access import GuestMemory
    from hvfuzz.machine.cpu.vcpu import VCpu

RING: Final = int(direct_map(COALESCED_GFN << PAGE_SHIFT))
"""Guest virtual address of the ring, in the tables of the vCPU that writes."""
HEADER: Final = Struct("<II")
"""first, which the guest moves on, and last, which the hypervisor does: the entries between them are full."""
LAST: Final = 4
ENTRY: Final = Struct("<QIIQ")
SLOTS: Final = 16


class CoalescedMmio(DeviceModel):
    """The window of one domain. It keeps nothing: the ring is reached through the tables of the vCPU that writes."""

    __slots__ = ("guests",)

    placement = device_models.COALESCED

    def __init__(self, site: Site) -> None:
        self.guests = site.guests
        super().__init__(site)

    def accessed_by(self, vcpu: VCpu) -> Window:
        """The window over the ring of `vcpu`."""
        return Window(self.guests, vcpu)


class Window:
    """The window of the domain of `vcpu`, for one access."""

    __slots__ = ("hv", "vcpu")

    def __init__(self, hv: GuestMemory, vcpu: VCpu) -> None:
        self.hv = hv
        self.vcpu = vcpu

    def mmio_read(self, offset: int, size: int) -> int:
        """Nothing: a write that is queued has no effect yet."""
        return 0

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Queue the write; it is lost if the ring is full, makes no sense, or cannot be reached."""
        header = guest_access.copy_from_guest(self.hv, self.vcpu, RING, HEADER.size)
        if header is None:
            return
        slot = free_slot(*HEADER.unpack(header))
        if slot is None:
            return
        address = MMIO_BASE + COALESCED * MMIO_SIZE + offset
        entry = ENTRY.pack(address, size, 0, value)
        # The index comes last: the guest may look as soon as it moves.
        if guest_access.copy_to_guest(self.hv, self.vcpu, RING + HEADER.size + slot * ENTRY.size, entry):
            following = (slot + 1) % SLOTS
            guest_access.copy_to_guest(self.hv, self.vcpu, RING + LAST, following.to_bytes(4, "little"))


def free_slot(first: int, last: int) -> int | None:
    """Where the next entry goes, if an index is one and there is room: one slot is always empty."""
    if last >= SLOTS or (last + 1) % SLOTS == first:
        return None
    return last
