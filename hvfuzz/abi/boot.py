"""Boot-time environment of a guest: its address space, its devices, and the worlds that programs start in."""

from typing import NamedTuple

from hvfuzz.abi.limits import POOL
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE, Gva

# Guest virtual addresses.
DIRECT_MAP = 0xFFFF_8800_0000_0000
"""Guest physical address g is mapped at DIRECT_MAP + g for the kernel: RW, executable."""
DIRECT_MAP_SIZE = 16 << 20
DIRECT_MAP_SMALL = 2 << 20
"""Bytes at the start of the direct map that 4 KiB entries map; 2 MiB entries map the rest."""
USER_BASE = 0x40_0000
"""Address of the user pages, which are RW for CPL 3."""
HYPERVISOR_HOLE_START = 0xFFFF_8000_0000_0000
HYPERVISOR_HOLE_END = 0xFFFF_8800_0000_0000
"""The hypervisor's hole, end exclusive: no argument may lie there."""

# Guest frame numbers.
PML4_GFN = 1
PDPT_KERNEL_GFN = 2
PD_KERNEL_GFN = 3
PT_KERNEL_GFN = 4
PDPT_USER_GFN = 5
PD_USER_GFN = 6
PT_USER_GFN = 7
PD_MMIO_GFN = 8
TABLE_GFNS = range(1, 9)
ARGUMENT_GFN = 0x10
"""The argument page of vCPU 0; each further vCPU uses the next frame."""
COALESCED_GFN = 0x1F
"""The page with the ring of coalesced MMIO writes."""
USER_GFN = 0x20
USER_PAGES = 16

# Offsets in the argument page.
ARG_STRUCT = 0x000
ARG_ARRAYS = 0x400
ARG_NESTED = 0x800
"""The argument struct; the arrays that it points to, one after another; the structs of a multicall's calls."""

# Devices and trapped instructions.
MMIO_BASE = 0xFE00_0000
"""Guest physical address of the registers of device 0; each further device uses the next page."""
MMIO_SIZE = PAGE_SIZE
DMA_ENGINES = 2
"""Number of DMA engines: devices 0 and 1."""
VIRTIO_BLK = 2
VIRTIO_NET = 3
DEVICES = 4
IOAPIC = 0x10
TIMER = 0x11
"""Pages, counted from MMIO_BASE, of the registers of the domain's own I/O APIC and timer."""
COALESCED = 0x12
"""The page, counted from MMIO_BASE, whose writes are appended to the ring at COALESCED_GFN."""
UART_PORT = 0x3F8
UART_PORTS = 8
FIFO_PORT = 0x3F0
FIFO_PORTS = 8
"""Ports of the domain's own floppy controller."""
RESERVED_BASE = 0xFF_E000
"""Host physical address of reserved memory, in worlds that have some. It is also its device address."""
CPUID_SIGNATURE = 0x4000_0000
CPUID_VERSION = 0x4000_0001
CPUID_NAME = b"hvfuzz emuhv"
"""EBX, ECX and EDX of the signature leaf, four bytes each."""


class DomainConfig(NamedTuple):
    """One domain of a world. Its RAM is guest frames 0 to ram_pages - 1; `pool` is its number of table pages."""

    vcpus: int
    ram_pages: int
    abi_version: int
    privileged: bool = False
    devices: tuple[int, ...] = ()
    pool: int = POOL


class Reserved(NamedTuple):
    """Memory that firmware reserves for a device: `pages` pages from host physical address `base` on."""

    device: int
    base: int
    pages: int


class World(NamedTuple):
    """A booted machine that programs start in. The number of a domain is its index in `domains`."""

    name: str
    domains: tuple[DomainConfig, ...]
    reserved: tuple[Reserved, ...] = ()


_CONTROL = DomainConfig(vcpus=1, ram_pages=64, abi_version=2, privileged=True)
_GUEST = DomainConfig(vcpus=2, ram_pages=256, abi_version=2)
_GUEST_DEVICE_0 = _GUEST._replace(devices=(0,))
_GUEST_DEVICE_1 = _GUEST._replace(devices=(1,))
_GUEST_BLK = _GUEST._replace(devices=(VIRTIO_BLK,))
_GUEST_NET = _GUEST._replace(devices=(VIRTIO_NET,))
_OLD_GUEST = _GUEST._replace(abi_version=1)

# The world byte of a program is an index here, so worlds may only be appended.
WORLDS = (
    World("pair", (_CONTROL, _GUEST_DEVICE_0, _GUEST)),
    World("old", (_CONTROL, _GUEST_DEVICE_0, _OLD_GUEST)),
    World("devices", (_CONTROL, _GUEST_DEVICE_0, _GUEST_DEVICE_1)),
    World("bare", (_CONTROL, _GUEST, _GUEST)),
    World("virtio", (_CONTROL, _GUEST_BLK, _GUEST_NET)),
    World("reserved", (_CONTROL, _GUEST_DEVICE_1, _GUEST), (Reserved(1, RESERVED_BASE, 2),)),
)
WORLDS_BY_NAME = {world.name: world for world in WORLDS}

TABLE_CHAINS = (
    (DIRECT_MAP, (PML4_GFN, PDPT_KERNEL_GFN, PD_KERNEL_GFN, PT_KERNEL_GFN)),
    (DIRECT_MAP + MMIO_BASE, (PML4_GFN, PDPT_KERNEL_GFN, PD_MMIO_GFN)),
    (USER_BASE, (PML4_GFN, PDPT_USER_GFN, PD_USER_GFN, PT_USER_GFN)),
)
"""(address, frames of the tables that a walk of it reads, from level 4 down)."""


def table_index(gva: int, level: int) -> int:
    """The index of the entry for `gva` in a table of `level` (4: PML4, 1: page table)."""
    return gva >> PAGE_SHIFT + 9 * (level - 1) & 511


def direct_map(gpa: int) -> Gva:
    """The address at which the kernel maps guest physical address `gpa`."""
    return Gva(DIRECT_MAP + gpa)


def argument_page(vcpu: int) -> Gva:
    """The address at which the kernel maps the argument page of vCPU number `vcpu` of its domain."""
    return Gva(DIRECT_MAP + ((ARGUMENT_GFN + vcpu) << PAGE_SHIFT))
