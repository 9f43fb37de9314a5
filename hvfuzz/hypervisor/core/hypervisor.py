"""The hypervisor's state. `boot` creates it; `exits` handles the VM exits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from hvfuzz.abi.boot import World
from hvfuzz.abi.limits import SELF
from hvfuzz.hypervisor.core import canaries
from hvfuzz.hypervisor.core.host import HostArray, HostFault, HostMemory, Work
from hvfuzz.hypervisor.core.observer import Observer
from hvfuzz.hypervisor.core.work_quota import PREEMPTION_QUOTA
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
"""Offset in the bounce buffer of domain 0's device model memory; the AREAs of the other domains follow in order."""


class Hypervisor:
    """The state of host context. Exits, dispatch, hypercalls and boot import this module, never the reverse.

    Host memory, low to high: control area, frame table, the IOMMU's root and context tables, bounce buffer. The
    allocator manages the rest, except for regions that firmware has reserved. Firmware has put its DMAR table into the
    control area.
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
        "preemption_quota",
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
        """The hypercalls that dispatch accepts."""
        self.models = tuple(models)
        """The device models that each domain has."""
        self.secret = secret
        self.preemption_quota = PREEMPTION_QUOTA
        """Units of work that a long call may do between two preemption points."""
        self.host = HostMemory(machine)
        self.frames = FrameTable(self.host)
        self.allocator = Allocator(self.host, self.frames, secret)
        self.scheduler = Scheduler(machine.clock)
        self.timers: dict[int, Alarm] = {}
        """Armed timers, by domain."""
        self.domains: HostArray[Domain] = HostArray((), self.host.work)
        self.windows: dict[tuple[int, int], int] = {}
        """(domain, device page) -> number of the device whose registers are mapped there; each occurs at most once."""
        self.canary = canaries.canary(secret, canaries.CONTROL, 0)
        self._lay_out_memory()
        self.reserved = self._reserve()
        """Frames that firmware reserves for a device, by its bdf."""
        self.iommu = self._device_tables()
        self.bounce = self._bounce_buffer()
        """Host physical address of the bounce buffer: a data word of register reads, one of register writes, then the
        AREAs of the domains' device models."""
        self.msr_bitmap = 0
        """Host physical address of the MSR bitmap, shared by all vCPUs."""
        self.apics: HostArray[int] = HostArray((), self.host.work)
        """Host physical address of the APIC registers of each vCPU, by its id."""
        self.apic_timers: dict[int, int] = {}
        """Id of each vCPU whose APIC timer is running -> when its count reaches zero, in cycles."""

    @property
    def observer(self) -> Observer:
        """The observer of this hypervisor; assign to replace it."""
        return self.host.observer

    @observer.setter
    def observer(self, observer: Observer) -> None:
        self.host.watch(observer)

    @property
    def work(self) -> Work:
        """Work that host context has done so far."""
        return self.host.work

    def resolve(self, caller: Domain, number: int) -> Domain | None:
        """The domain that an argument of a call by `caller` names (SELF: the caller); None if it does not exist."""
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
        """Mark all frames free, except for the control area and the frame table itself."""
        frames = self.frames
        self.host.write(frames.base, FREE_WORD.to_bytes(8, "little") * frames.count)
        first = FRAME_TABLE_BASE >> PAGE_SHIFT
        table_frames = (frames.count * 8 + PAGE_SIZE - 1) >> PAGE_SHIFT
        for hfn in range(first + table_frames):
            self.allocator.take(hfn, OWNER_HYPERVISOR, FrameState.HYPERVISOR)
        self.host.write64(CONTROL_AREA, CONTROL_MAGIC)
        self.host.write64(CONTROL_CANARY, self.canary)

    def _reserve(self) -> Regions:
        """Take the memory that firmware reserves for devices, before any other allocation.

        Raises HostFault for a bad table, see `read_regions`, and for a region in memory of the hypervisor itself.
        """
        regions = read_regions(self.host, CONTROL_AREA + DMAR_ADDRESS)
        for bdf, region in regions.items():
            for hfn in region:
                if self.frames.frame(hfn).state != FrameState.FREE:
                    raise HostFault(f"DMAR table: frame {hfn:#x}, reserved for device {bdf:#06x}, is the hypervisor's")
                self.allocator.take(hfn, OWNER_HYPERVISOR, FrameState.RESERVED)
        return regions

    def is_reserved(self, page: int, count: int = 1) -> bool:
        """Whether any of the `count` device pages from `page` on lies at the address of a reserved region."""
        return any(page < region.stop and region.start < page + count for region in self.reserved.values())

    def window_of(self, device: int) -> tuple[int, int] | None:
        """(domain, device page) at which the registers of `device` are mapped, or None."""
        return next((place for place, number in self.windows.items() if number == device), None)

    def _device_tables(self) -> ContextTables:
        """Create empty root and context tables, and enable the IOMMU (VT-d spec 9.1, 9.3)."""
        buses = {device.bdf >> 8: 0 for device in self.machine.devices}
        root = self.table_page()
        tables = ContextTables(self.host, root, {bus: self.table_page() for bus in buses})
        self.machine.iommu.enable(root)
        return tables

    def _bounce_buffer(self) -> int:
        """Allocate the bounce buffer, a heap page filled with its canary: stale data is then recognised as a leak."""
        hfn = self.allocator.alloc_heap_page()
        page = hfn << PAGE_SHIFT
        secret = self.host.read(page + HEAP_CANARY, 8)
        self.host.write(page + HEAP_HEADER, secret * ((PAGE_SIZE - HEAP_HEADER) // 8))
        return page + HEAP_HEADER

    def table_page(self) -> int:
        """Allocate a zeroed page for one of the hypervisor's own tables; returns its host physical address."""
        hfn = self.allocator.alloc_page(OWNER_HYPERVISOR, FrameState.TABLE)
        return hfn << PAGE_SHIFT
