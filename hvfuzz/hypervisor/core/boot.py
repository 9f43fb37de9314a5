"""Booting a world: the host's memory, its domains with their tables, and the guests' address spaces (abi/boot.py).

Nothing here is random: the same world, memory size and secret give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from hvfuzz.abi import boot as layout
from hvfuzz.abi.boot import DomainConfig, World
from hvfuzz.hypervisor.core import canaries, dispatch, exits
from hvfuzz.hypervisor.core.domains import Domain
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.devices import all_models
from hvfuzz.hypervisor.devices.device_model import DomainDevices, Site, memory_offsets, placed
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.hypervisor.hypercalls.device.assignment import AssignDevice
from hvfuzz.hypervisor.memory.dma import DmaMap
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.hypervisor.memory.stage2 import Stage2
from hvfuzz.hypervisor.memory.table_pool import POISON, TablePool
from hvfuzz.hypervisor.memory.table_tree import ADDRESS, RIGHTS
from hvfuzz.hypervisor.vcpu import apic, msr
from hvfuzz.hypervisor.vcpu.deadlines import next_deadline
from hvfuzz.machine.addresses import MAXPHYADDR, PAGE_SHIFT, PAGE_SIZE
from hvfuzz.machine.cpu.msrs import LSTAR, STAR
from hvfuzz.machine.cpu.registers import Reg
from hvfuzz.machine.cpu.segments import STAR_OF_FLAT_SEGMENTS
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.machine.devices.dma_engine import DmaEngine
from hvfuzz.machine.devices.pci_function import Device
from hvfuzz.machine.devices.virtio.blk import VirtioBlk
from hvfuzz.machine.devices.virtio.net import VirtioNet
from hvfuzz.machine.machine import Machine
from hvfuzz.machine.mmu.paging import PS, RW, US, A, D, P
from hvfuzz.machine.vtd.dmar import DMAR_ADDRESS, ReservedMemory, dmar_table
from hvfuzz.machine.vtd.legacy_mode import source_id
from hvfuzz.machine.vtd.walker import Blocked

MEMORY_SIZE = 16 << 20
BOOT_SECRET = 0x5EC2_E700_DEAD_10CC
"""Default key from which all canaries are derived."""
FIRST_DEVICE_SLOT = 4
"""PCI device number of device 0, on bus 0; the others follow in order."""
DEVICES: tuple[tuple[Callable[[Machine, int, str], Device], str], ...] = (
    (DmaEngine, "dma0"),
    (DmaEngine, "dma1"),
    (VirtioBlk, "blk0"),
    (VirtioNet, "net0"),
)
"""Class and name of each device, by number."""

KERNEL_ENTRY_GFN = 9
"""Entry point of the guest's kernel: RIP at boot, and the target of SYSCALL."""
STACK_TOP_GFN = 15
CANARY_GFNS = (0x2F, 0x30, 0x3F)
"""Frames whose last word holds the domain's canary, as does its last RAM frame; 0x2F is a user page."""
CANARY_OFFSET = PAGE_SIZE - 8

KERNEL_TABLE = P | RW | A
KERNEL_PAGE = P | RW | A | D
USER_TABLE = P | RW | US | A
USER_PAGE = P | RW | US | A | D
LARGE_PAGE = 2 << 20
INTERCEPTS = 1 << ExitReason.RDTSC | 1 << ExitReason.RDTSCP
"""Bits of the exit reasons of instructions that exit, besides HLT and port I/O (SDM Vol. 3C, 26.1.3)."""


def boot(world: World, memory_size: int = MEMORY_SIZE, secret: int = BOOT_SECRET) -> Hypervisor:
    """Boot the hypervisor and all domains of `world` on a fresh machine of `memory_size` bytes."""
    machine = Machine(memory_size)
    for number, (device, name) in enumerate(DEVICES):
        machine.add_device(device(machine, source_id(0, FIRST_DEVICE_SLOT + number, 0), name))
    install_firmware(machine, world)
    hv = Hypervisor(machine, world, ABI, all_models.MODELS, secret)
    machine.exit_handler = lambda vcpu: exits.handle_exit(hv, vcpu)
    machine.next_deadline = lambda vcpu: next_deadline(hv, vcpu)
    machine.user_of = lambda device: user_of(machine, device)
    for config in world.domains:
        add_domain(hv, config)
    start_processors(hv)
    for vcpu in machine.vcpus:
        run_kernel(vcpu)
    return hv


def user_of(machine: Machine, device: Device) -> int | None:
    """The domain whose id stands in the context entry of the device, as a bystander at the bus sees it."""
    context = machine.iommu.tables.context(machine.iommu.root_table, device.bdf)
    return None if isinstance(context, Blocked) else context.did - 1


def install_firmware(machine: Machine, world: World) -> None:
    """Write the DMAR table, as firmware does: the IOMMU, and the memory regions reserved for devices."""
    regions = (
        ReservedMemory(machine.devices[device].bdf, base, base + (pages << PAGE_SHIFT) - 1)
        for device, base, pages in world.reserved
    )
    machine.memory.write(DMAR_ADDRESS, dmar_table(MAXPHYADDR, regions))


def add_domain(hv: Hypervisor, config: DomainConfig) -> Domain:
    """Create the next domain: pool, tables, initial memory contents, vCPUs and devices."""
    number = len(hv.domains)
    pool: list[int] = []
    tables = TablePool(hv.host, hv.frames, number, pool)
    stage2 = Stage2(hv.host, hv.frames, tables, _root(hv, number))
    dma = DmaMap(hv.host, hv.frames, tables, _root(hv, number), number + 1)
    domain = Domain(
        number,
        privileged=config.privileged,
        version=config.abi_version,
        canary=canaries.canary(hv.secret, canaries.DOMAIN, number),
        pool=pool,
        stage2=stage2,
        dma=dma,
        devices=make_devices(hv, number),
        work=hv.work,
    )
    hv.domains.append(domain)
    # The tables for its RAM and its devices' reserved memory come on top of the pool that the guest starts with.
    reserved = [page for device in config.devices for page in hv.reserved.get(hv.machine.devices[device].bdf, ())]
    fill_pool(hv, domain, config.pool + stage2.tables_needed(range(config.ram_pages)) + dma.tables_needed(reserved))
    for gfn in range(config.ram_pages):
        stage2.map(gfn, hv.allocator.alloc_page(number, FrameState.OWNED), RIGHTS)
    write_guest_tables(hv, domain)
    plant_canaries(hv, domain, config.ram_pages)
    for _ in range(config.vcpus):
        add_vcpu(hv, domain)
    for device in config.devices:
        dispatch.commit(hv, (AssignDevice(device, number),))
    return domain


def make_devices(hv: Hypervisor, domain: int) -> DomainDevices:
    """Create the device models of domain number `domain`, each with its part of the domain's model memory."""
    base, offsets = hv.model_memory(domain), memory_offsets(hv.models)
    return placed(
        model(Site(hv.host, hv.machine.clock, domain, base + offsets[model.placement.name], hv, hv.timers))
        for model in hv.models
    )


def fill_pool(hv: Hypervisor, domain: Domain, pages: int) -> None:
    """Add `pages` poisoned table pages to the domain's pool."""
    for _ in range(pages):
        hfn = hv.allocator.alloc_page(domain.id, FrameState.POOL)
        hv.host.fill(hfn, POISON)
        domain.pool.append(hfn)


def guest_address(domain: Domain, gfn: int, offset: int = 0) -> int:
    """The host physical address of a byte of the domain's small page `gfn`."""
    entry, _, _ = domain.stage2.lookup(gfn)
    return entry & ADDRESS | offset


def write_guest_tables(hv: Hypervisor, domain: Domain) -> None:
    """Write the guest's own page tables: direct map, MMIO window, user pages (abi/boot.py)."""

    def put(table: int, index: int, target: int, bits: int) -> None:
        hv.machine.memory.store64(guest_address(domain, table, 8 * index), target | bits)

    for gva, tables in layout.TABLE_CHAINS:
        bits = USER_TABLE if gva == layout.USER_BASE else KERNEL_TABLE
        for level, (table, below) in zip((4, 3, 2), pairwise(tables), strict=False):
            put(table, layout.table_index(gva, level), below << PAGE_SHIFT, bits)

    for index in range(layout.DIRECT_MAP_SMALL // PAGE_SIZE):
        put(layout.PT_KERNEL_GFN, index, index * PAGE_SIZE, KERNEL_PAGE)
    for index in range(layout.DIRECT_MAP_SMALL // LARGE_PAGE, layout.DIRECT_MAP_SIZE // LARGE_PAGE):
        put(layout.PD_KERNEL_GFN, index, index * LARGE_PAGE, KERNEL_PAGE | PS)

    mmio = layout.table_index(layout.direct_map(layout.MMIO_BASE), 2)
    put(layout.PD_MMIO_GFN, mmio, layout.MMIO_BASE & -LARGE_PAGE, KERNEL_PAGE | PS)
    first = layout.table_index(layout.USER_BASE, 1)
    for index in range(layout.USER_PAGES):
        put(layout.PT_USER_GFN, first + index, layout.USER_GFN + index << PAGE_SHIFT, USER_PAGE)


def plant_canaries(hv: Hypervisor, domain: Domain, ram_pages: int) -> None:
    """Write the domain's canary into the last word of each canary frame and of the last RAM frame."""
    for gfn in (*CANARY_GFNS, ram_pages - 1):
        hv.machine.memory.store64(guest_address(domain, gfn, CANARY_OFFSET), domain.canary)


def add_vcpu(hv: Hypervisor, domain: Domain) -> VCpu:
    """Add a vCPU that starts in the guest's kernel, in ring 0; SYSRET enters the user pages."""
    vcpu = hv.machine.add_vcpu(domain.id)
    entry = layout.direct_map(KERNEL_ENTRY_GFN << PAGE_SHIFT)
    vcpu.vmcs.intercepts |= INTERCEPTS
    vcpu.eptp = domain.stage2.eptp
    vcpu.cr3 = layout.PML4_GFN << PAGE_SHIFT
    vcpu.regs[Reg.RIP] = entry
    vcpu.regs[Reg.RSP] = layout.direct_map(STACK_TOP_GFN << PAGE_SHIFT)
    vcpu.regs[Reg.RCX] = layout.USER_BASE
    vcpu.msrs[LSTAR] = entry
    vcpu.msrs[STAR] = STAR_OF_FLAT_SEGMENTS
    domain.vcpus.append(vcpu)
    return vcpu


def start_processors(hv: Hypervisor) -> None:
    """Give every vCPU an APIC and the shared MSR bitmap (SDM Vol. 3C, 25.6.9)."""
    hv.msr_bitmap = hv.table_page()
    hv.host.write(hv.msr_bitmap, msr.bitmap())
    for vcpu in hv.machine.vcpus:
        vcpu.vmcs.msr_bitmap = hv.msr_bitmap
        hv.apics.append(apic.power_up(hv, vcpu))


def run_kernel(vcpu: VCpu) -> None:
    """Have the vCPU write to its hypercall argument page, so that programs start with warm translation caches."""
    vcpu.store(layout.argument_page(vcpu.index), 8, 0)


def _root(hv: Hypervisor, owner: int) -> int:
    return hv.allocator.alloc_page(owner, FrameState.TABLE) << PAGE_SHIFT
