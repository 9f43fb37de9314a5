"""Coalesced MMIO: a register window whose writes are queued in a ring, for a device model inside the guest.

The ring lies in the domain's memory, laid out as KVM's (include/uapi/linux/kvm.h, `struct kvm_coalesced_mmio_ring`):
first and last, then SLOTS entries of address, length, padding and data. The guest can change both indices at any time:
each is fetched once, and checked before use. KVM did not check one of them (CVE-2019-14821).
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
"""Guest virtual address of the ring, translated by the page tables of the writing vCPU."""
HEADER: Final = Struct("<II")
"""first, advanced by the guest, and last, advanced by the hypervisor: the entries between them are full."""
LAST: Final = 4
ENTRY: Final = Struct("<QIIQ")
SLOTS: Final = 16


class CoalescedMmio(DeviceModel):
    """The window of one domain. It has no state: the ring is accessed through the page tables of the writing vCPU."""

    __slots__ = ("guests",)

    placement = device_models.COALESCED

    def __init__(self, site: Site) -> None:
        self.guests = site.guests
        super().__init__(site)

    def accessed_by(self, vcpu: VCpu) -> Window:
        """The window, with the ring as `vcpu` maps it."""
        return Window(self.guests, vcpu)


class Window:
    """The window during one access by `vcpu`."""

    __slots__ = ("hv", "vcpu")

    def __init__(self, hv: GuestMemory, vcpu: VCpu) -> None:
        self.hv = hv
        self.vcpu = vcpu

    def mmio_read(self, offset: int, size: int) -> int:
        """Reads as zero: queued writes have no effect on the window."""
        return 0

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Queue the write; it is dropped if the ring is full, has an invalid index, or is not mapped."""
        header = guest_access.copy_from_guest(self.hv, self.vcpu, RING, HEADER.size)
        if header is None:
            return
        slot = free_slot(*HEADER.unpack(header))
        if slot is None:
            return
        address = MMIO_BASE + COALESCED * MMIO_SIZE + offset
        entry = ENTRY.pack(address, size, 0, value)
        # Write the index last: the guest may read the entry as soon as the index moves.
        if guest_access.copy_to_guest(self.hv, self.vcpu, RING + HEADER.size + slot * ENTRY.size, entry):
            following = (slot + 1) % SLOTS
            guest_access.copy_to_guest(self.hv, self.vcpu, RING + LAST, following.to_bytes(4, "little"))


def free_slot(first: int, last: int) -> int | None:
    """Slot of the next entry; None if `last` is invalid or the ring is full (one slot always stays empty)."""
    # Without this check, a guest could have the entry written beyond the ring (CVE-2019-14821).
    if last >= SLOTS or (last + 1) % SLOTS == first:
        return None
    return last
