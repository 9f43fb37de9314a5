"""A machine: one memory, one TLB, one IOMMU, the vCPUs and the devices, with hooks for the hypervisor and observers."""

from collections.abc import Callable
from typing import TypeVar

from hvfuzz.machine.clock import Clock
from hvfuzz.machine.cpu.processor_state import AccessObserver, ExitHandler
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.devices.pci_function import Device
from hvfuzz.machine.devices.register_windows import REGISTERS_BASE, REGISTERS_LIMIT, registers_of
from hvfuzz.machine.fetches import Fetches
from hvfuzz.machine.mmu.stage1 import Mmu
from hvfuzz.machine.mmu.tlb import Tlb
from hvfuzz.machine.physical_memory import PhysicalMemory
from hvfuzz.machine.race_points import NO_TRIGGER, RacePoints
from hvfuzz.machine.raced_writes import RacedWrites
from hvfuzz.machine.shortage import Shortage
from hvfuzz.machine.vtd.iommu import Iommu

DeviceT = TypeVar("DeviceT", bound=Device)


class Machine:
    """The hardware of one host. It knows the hypervisor only as the handler of VM exits."""

    __slots__ = (
        "access_observer",
        "clock",
        "devices",
        "exit_handler",
        "fetches",
        "iommu",
        "memory",
        "mmu",
        "next_deadline",
        "preemptions",
        "shortage",
        "tlb",
        "user_of",
        "vcpus",
        "writes",
    )

    def __init__(self, memory_size: int = 16 << 20) -> None:
        """A machine with `memory_size` bytes of memory, without vCPUs and devices."""
        self.memory: PhysicalMemory = PhysicalMemory(memory_size)
        self.clock: Clock = Clock()
        self.tlb: Tlb = Tlb()
        self.mmu: Mmu = Mmu(self.memory, self.tlb, self.clock)
        self.iommu: Iommu = Iommu(self.memory, self.clock)
        self.vcpus: list[VCpu] = []
        self.devices: list[Device] = []
        self.fetches: Fetches = Fetches()
        self.writes: RacedWrites = RacedWrites(self.memory, self.vcpus)
        self.preemptions: RacePoints = RacePoints()
        """Preemption points: the exit handler calls `before()` where it would let others run."""
        self.shortage: Shortage = Shortage()
        self.exit_handler: ExitHandler = unhandled_exit
        self.access_observer: AccessObserver | None = None
        self.next_deadline: Callable[[VCpu], int | None] = nothing_set
        """When the next deadline of a vCPU or its domain is over, in cycles; None without one. For the outside world,
        in which time passes; the keeper of the deadlines sets this."""
        self.user_of: Callable[[Device], int | None] = nothing_set
        """The domain that uses a device, None if none does. For the outside world, as `next_deadline`."""

    @property
    def race_pending(self) -> bool:
        """Whether something is still to act in the middle of the present op."""
        return any(points.trigger != NO_TRIGGER for points in (self.fetches, self.writes, self.preemptions))

    def add_vcpu(self, domain: int) -> VCpu:
        """Create the next vCPU of `domain`."""
        index = sum(vcpu.domain == domain for vcpu in self.vcpus)
        vcpu = VCpu(self, domain, index, len(self.vcpus))
        self.vcpus.append(vcpu)
        return vcpu

    def add_device(self, device: DeviceT) -> DeviceT:
        """Plug `device` in. Its index in `devices` is its number, which determines the address of its registers."""
        if registers_of(len(self.devices)) >= REGISTERS_LIMIT or self.memory.size > REGISTERS_BASE:
            raise ValueError(f"no room for the registers of {device.name} below {REGISTERS_LIMIT:#x}")
        self.devices.append(device)
        return device


def nothing_set(_: object) -> None:
    """The answer of a machine on which nothing sets deadlines, or assigns devices."""


def unhandled_exit(vcpu: VCpu) -> None:
    """The exit handler of a machine without a hypervisor."""
    raise RuntimeError(f"vCPU {vcpu.id} exits ({vcpu.vmcs.reason.name}), but the machine has no exit handler")
