"""The hypervisor's state: everything that host context knows. `boot` makes one; `exits` handles the VM exits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from hvfuzz.abi.boot import World
from hvfuzz.abi.limits import SELF
from hvfuzz.hypervisor.core import canaries
from hvfuzz.hypervisor.core.host import HostArray, HostMemory, Work
from hvfuzz.hypervisor.core.observer import Observer
from hvfuzz.hypervisor.devices.device_model import AREA
from hvfuzz.hypervisor.memory.allocator import HEAP_CANARY, HEAP_HEADER, Allocator
from hvfuzz.hypervisor.memory.dma import ContextTables
from hvfuzz.hypervisor.memory.frames import FRAME_TABLE_BASE, FREE_WORD, OWNER_HYPERVISOR, FrameState, FrameTable
from hvfuzz.hypervisor.memory.rmrr import Regions, read_regions
from hvfuzz.hypervisor.vcpu.scheduler import Scheduler
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE
from hvfuzz.machine.vtd.dmar import DMAR_ADDRESS

if TYPE_CHECKING:
    from hvfuzz.abi.registry import Abi
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.hypervisor.devices.device_model import Alarm, DeviceModel
    from hvfuzz.machine.devices.pci_function import Device
    from hvfuzz.machine.machine import Machine

CONTROL_AREA = 0
"""Host physical address of the hypervisor's control area, one frame."""
CONTROL_MAGIC = int.from_bytes(b"hvfuzz\0\1", "little")
CONTROL_CANARY = CONTROL_AREA + PAGE_SIZE - 8
MODELS: Final = 0x40
"""Offset in the bounce buffer of the memory of domain 0's device models; each further domain has the next AREA."""


class Hypervisor:
    """The state of host context. It imports nothing that acts on it: exits, dispatch, hypercalls and boot do.

    Host memory, low to high: the control area, the frame table, the IOMMU's root and context tables, the bounce
    buffer; the rest is the allocator's, but for what firmware has reserved. Firmware has left its DMAR table in the
    control area, where it stays.
    """

    __slots__ = (
        "abi",
        "allocator",
        "apic_timers",
        "apics",
        "bounce",
        "canary",
        "domains",
        "frames",
        "host",
        "iommu",
        "machine",
        "models",
        "msr_bitmap",
        "reserved",
        "scheduler",
        "secret",
        "timers",
        "windows",
        "world",
    )

    def __init__(
        self, machine: Machine, world: World, abi: Abi, models: Sequence[type[DeviceModel]], secret: int
    ) -> None:
        self.machine = machine
        self.world = world
        self.abi = abi
        """The contract that dispatch speaks."""
        self.models = tuple(models)
        """The device models that each domain has."""
        self.secret = secret
        self.host = HostMemory(machine)
        self.frames = FrameTable(self.host)
        self.allocator = Allocator(self.host, self.frames, secret)
        self.scheduler = Scheduler(machine.clock)
        self.timers: dict[int, Alarm] = {}
        """The timers that are armed, by domain."""
        self.domains: HostArray[Domain] = HostArray((), self.host.work)
        self.windows: dict[tuple[int, int], int] = {}
        """(domain, device page) -> the device whose registers are mapped there, for each device once at most."""
        self.canary = canaries.canary(secret, canaries.CONTROL, 0)
        self._lay_out_memory()
        self.reserved = self._reserve()
        """The frames that firmware keeps for a device, by its bdf."""
        self.iommu = self._device_tables()
        self.bounce = self._bounce_buffer()
        """Host physical address of two words, the data of a register read and of a register write; then the areas of
        the domains' device models."""
        self.msr_bitmap = 0
        """Host physical address of the page that says which MSRs exit, for all vCPUs."""
        self.apics: HostArray[int] = HostArray((), self.host.work)
        """Host physical address of the APIC registers of each vCPU, by its id."""
        self.apic_timers: dict[int, int] = {}
        """Id of a vCPU whose APIC timer counts -> when it ends, in cycles."""

    @property
    def observer(self) -> Observer:
        """Who is told what the hypervisor does; assign to it to watch."""
        return self.host.observer

    @observer.setter
    def observer(self, observer: Observer) -> None:
        self.host.watch(observer)

    @property
    def work(self) -> Work:
        """The count of work that host context has done."""
        return self.host.work

    def resolve(self, caller: Domain, number: int) -> Domain | None:
        """The domain that a domain field of a call by `caller` names; None if there is none."""
        if number == SELF:
            return caller
        return self.domains[number] if number < len(self.domains) else None

    def device(self, number: int) -> Device | None:
        """The device with this number, or None."""
        devices = self.machine.devices
        return devices[number] if number < len(devices) else None

    def model_memory(self, domain: int) -> int:
        """Host physical address of the memory of the device models of domain number `domain`."""
        return self.bounce + MODELS + domain * AREA

    def _lay_out_memory(self) -> None:
        """All frames are free, but for those of the control area and of the frame table itself."""
        frames = self.frames
        self.host.write(frames.base, FREE_WORD.to_bytes(8, "little") * frames.count)
        first = FRAME_TABLE_BASE >> PAGE_SHIFT
        table_frames = (frames.count * 8 + PAGE_SIZE - 1) >> PAGE_SHIFT
        for hfn in range(first + table_frames):
            self.allocator.take(hfn, OWNER_HYPERVISOR, FrameState.HYPERVISOR)
        self.host.write64(CONTROL_AREA, CONTROL_MAGIC)
        self.host.write64(CONTROL_CANARY, self.canary)

    def _reserve(self) -> Regions:
        """Take the memory that firmware keeps for devices, before anybody else does."""
        regions = read_regions(self.host, CONTROL_AREA + DMAR_ADDRESS)
        for hfn in dict.fromkeys(hfn for region in regions.values() for hfn in region):
            self.allocator.take(hfn, OWNER_HYPERVISOR, FrameState.RESERVED)
        return regions

    def is_reserved(self, page: int, count: int = 1) -> bool:
        """Whether one of the `count` device pages from `page` on is at the address of a reserved region."""
        return any(page < region.stop and region.start < page + count for region in self.reserved.values())

    def window_of(self, device: int) -> tuple[int, int] | None:
        """The domain and the device page at which the registers of `device` are mapped."""
        return next((place for place, number in self.windows.items() if number == device), None)

    def _device_tables(self) -> ContextTables:
        """Root and context tables without a device in them, and the IOMMU switched on."""
        buses = {device.bdf >> 8: 0 for device in self.machine.devices}
        root = self.table_page()
        tables = ContextTables(self.host, root, {bus: self.table_page() for bus in buses})
        self.machine.iommu.enable(root)
        return tables

    def _bounce_buffer(self) -> int:
        """A heap page full of what a guest must not see, for data on the way between guests and device models."""
        hfn = self.allocator.alloc_heap_page()
        page = hfn << PAGE_SHIFT
        secret = self.host.read(page + HEAP_CANARY, 8)
        self.host.write(page + HEAP_HEADER, secret * ((PAGE_SIZE - HEAP_HEADER) // 8))
        return page + HEAP_HEADER

    def table_page(self) -> int:
        """Host physical address of a zeroed page for a table of the hypervisor's own."""
        hfn = self.allocator.alloc_page(OWNER_HYPERVISOR, FrameState.TABLE)
        return hfn << PAGE_SHIFT
