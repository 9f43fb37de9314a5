"""Coalesced MMIO: a register window whose writes are queued in a ring, for a device model inside the guest.

The ring lies in the domain's memory, laid out as KVM's (include/uapi/linux/kvm.h, `struct kvm_coalesced_mmio_ring`):
first and last, then SLOTS entries of address, length, padding and data. The guest can change both indices at any time:
each is fetched once, and checked before use. KVM did not check one of them (CVE-2019-14821).

A write that cannot be queued is not lost: as in KVM (virt/kvm/coalesced_mmio.c, `coalesced_mmio_write`), it takes the
normal way of an exit. Here that is the window's own registers.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from hvfuzz.abi import device_models
from hvfuzz.abi.boot import COALESCED, COALESCED_GFN, MMIO_BASE, MMIO_SIZE, direct_map
from hvfuzz.hypervisor.devices.device_model import DeviceModel
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.addresses import PAGE_SHIFT, SIZE_MASK, WRITE

if TYPE_CHECKING:
    from hvfuzz.hypervisor.devices.device_model import Site
    from hvfuzz.machine.cpu.vcpu import VCpu

RING: Final = int(direct_map(COALESCED_GFN << PAGE_SHIFT))
"""Guest virtual address of the ring, translated by the page tables of the writing vCPU."""
HEADER: Final = Struct("<II")
"""first, advanced by the guest, and last, advanced by the hypervisor: the entries between them are full."""
LAST: Final = 4
ENTRY: Final = Struct("<QIIQ")
SLOTS: Final = 16


WORD: Final = 8
REGISTERS: Final = 4
"""Registers of the window, of WORD bytes each, from offset 0 on."""


class CoalescedMmio(DeviceModel):
    """The window of one domain, with its registers. The ring is accessed as the writing vCPU maps it."""

    __slots__ = ("guests", "registers")

    placement = device_models.COALESCED

    def __init__(self, site: Site) -> None:
        self.guests = site.guests
        super().__init__(site)

    def reset(self) -> None:
        """Set all registers to zero."""
        self.registers: list[int] = [0] * REGISTERS

    def mmio_read(self, offset: int, size: int) -> int:
        """`size` bytes of a register; other offsets read as zero. Queued writes have no effect on registers."""
        if offset >= REGISTERS * WORD:
            return 0
        return self.registers[offset // WORD] >> 8 * (offset % WORD) & SIZE_MASK[size]

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Write the low `size` bytes of `value` to a register; writes to other offsets are ignored."""
        if offset < REGISTERS * WORD:
            shift, mask = 8 * (offset % WORD), SIZE_MASK[size]
            kept = self.registers[offset // WORD] & ~(mask << shift)
            self.registers[offset // WORD] = kept | (value & mask) << shift

    def accessed_by(self, vcpu: VCpu) -> Window:
        """The window, with the ring as `vcpu` maps it."""
        return Window(self, vcpu)


class Window:
    """The window during one access by `vcpu`."""

    __slots__ = ("hv", "model", "vcpu")

    def __init__(self, model: CoalescedMmio, vcpu: VCpu) -> None:
        self.hv = model.guests
        self.model = model
        self.vcpu = vcpu

    def mmio_read(self, offset: int, size: int) -> int:
        """Read a register, which a queued write has not changed."""
        return self.model.mmio_read(offset, size)

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Queue the write; write the register at once if the ring is full, has an invalid index, or is not writable."""
        if not self._queue(MMIO_BASE + COALESCED * MMIO_SIZE + offset, size, value):
            self.model.mmio_write(offset, size, value)

    def _queue(self, address: int, size: int, value: int) -> bool:
        """Append an entry to the ring; False if that is impossible.

        The ring's page is translated once: between two translations another vCPU, or the entry itself where the ring is
        a page table, could lead to another page, and the entry would be in one and the index in the other.
        """
        hv, vcpu = self.hv, self.vcpu
        ring = guest_access.locate(hv, vcpu, RING, WRITE)
        if ring is None:
            return False
        slot = free_slot(*HEADER.unpack(guest_access.read_at(hv, vcpu, RING, ring, HEADER.size)))
        if slot is None:
            return False
        at = HEADER.size + slot * ENTRY.size
        guest_access.write_at(hv, vcpu, RING + at, ring + at, ENTRY.pack(address, size, 0, value))
        # Write the index last: the guest may read the entry as soon as the index moves.
        following = (slot + 1) % SLOTS
        guest_access.write_at(hv, vcpu, RING + LAST, ring + LAST, following.to_bytes(4, "little"))
        return True


def free_slot(first: int, last: int) -> int | None:
    """Slot of the next entry; None if `last` is invalid or the ring is full (one slot always stays empty)."""
    # Without this check, a guest could have the entry written beyond the ring (CVE-2019-14821).
    if last >= SLOTS or (last + 1) % SLOTS == first:
        return None
    return last
