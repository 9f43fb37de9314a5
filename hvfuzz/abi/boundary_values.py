"""Edge values for each kind of argument: boundaries, limits, holes, off-by-ones, wrap-arounds."""

from collections.abc import Iterable

from hvfuzz.abi import boot, limits
from hvfuzz.machine.addresses import PAGE_SIZE, SIZE_MASK

_TOP = 2**64
_ARGUMENTS = boot.argument_page(0)


def distinct(*values: int) -> tuple[int, ...]:
    """The values without duplicates, in the order of their first occurrence."""
    return tuple(dict.fromkeys(values))


def around(width: int, values: Iterable[int]) -> tuple[int, ...]:
    """Each value with its two neighbours, wrapped to `width` bytes."""
    mask = SIZE_MASK[width]
    return distinct(*((value + step) & mask for value in values for step in (-1, 0, 1)))


def boundaries(width: int) -> tuple[int, ...]:
    """Edges of any integer of `width` bytes: small values, sign bits, and the limits of narrower integers."""
    bits = [bit for bit in (7, 8, 15, 16, 31, 32, 63) if bit < 8 * width]
    return distinct(0, 1, 2, *around(width, (1 << bit for bit in bits)), SIZE_MASK[width])


def bounded(width: int, *bounds: int) -> tuple[int, ...]:
    """Small values, each bound with its neighbours, and the limits of the signed and the unsigned range."""
    sign = 1 << (8 * width - 1)
    return distinct(0, 1, 2, 3, *around(width, bounds), sign - 1, sign, 2 * sign - 1)


_MAPPED = (
    # The argument page: its parts, and addresses from which a struct crosses into the next page.
    _ARGUMENTS,
    _ARGUMENTS + boot.ARG_ARRAYS,
    _ARGUMENTS + boot.ARG_NESTED,
    *(_ARGUMENTS + PAGE_SIZE - before for before in (256, 16, 8, 4, 1)),
    # The direct map, user memory, page tables of the guest, the last words of RAM of both domain sizes.
    boot.DIRECT_MAP,
    boot.USER_BASE,
    boot.USER_BASE + boot.USER_PAGES * PAGE_SIZE - 8,
    boot.direct_map(boot.PML4_GFN * PAGE_SIZE),
    boot.direct_map(boot.PT_KERNEL_GFN * PAGE_SIZE),
    *(boot.direct_map(pages * PAGE_SIZE) + step for pages in (64, 256) for step in (-8, -4, 0)),
    boot.direct_map(boot.DIRECT_MAP_SMALL),
    boot.direct_map(boot.MMIO_BASE),
)
# Unmapped in stage 1, or in stage 2 only.
_UNMAPPED = (
    0,
    1,
    boot.USER_BASE + boot.USER_PAGES * PAGE_SIZE,
    boot.direct_map(boot.DIRECT_MAP_SIZE) - 8,
    boot.direct_map(boot.DIRECT_MAP_SIZE),
    boot.direct_map(boot.MMIO_BASE + boot.MMIO_SIZE),
)
_HOLE = (
    *(boot.HYPERVISOR_HOLE_START + step for step in (-PAGE_SIZE, -8, -1, 0, 1, 8, PAGE_SIZE, 1 << 20)),
    *(boot.HYPERVISOR_HOLE_END + step for step in (-PAGE_SIZE, -256, -8, -1)),
)
_NOT_CANONICAL = ((1 << 47) - 8, (1 << 47) - 1, 1 << 47, 1 << 63, _TOP - (1 << 47) - 8)
_WRAPPING = tuple(_TOP - before for before in (PAGE_SIZE, 256, 64, 16, 8, 4, 1))

GVA = distinct(*_MAPPED, *_UNMAPPED, *_HOLE, *_NOT_CANONICAL, *_WRAPPING)
GFN = distinct(
    *(0, boot.PML4_GFN, boot.PT_KERNEL_GFN, boot.ARGUMENT_GFN, boot.USER_GFN, 0x30),
    # The ends of RAM of both domain sizes, 2 MiB blocks, the end of guest RAM.
    *(0x3F, 0x40, 0xFF, 0x100, 0x101, 0x1FF, 0x200, 0x201, 0x3FF, 0x400, 0x600),
    *(limits.MAX_GFN + step for step in (-512, -2, -1, 0, 1)),
    *(boot.MMIO_BASE // PAGE_SIZE, boot.MMIO_BASE // PAGE_SIZE + 1),
    # Values whose byte address exceeds the physical width, or wraps; values for which gfn + count wraps.
    *((1 << bits) + step for bits in (34, 36, 40, 52) for step in (-1, 0)),
    *(1 << 63, _TOP - 512, _TOP - 2, _TOP - 1),
)
IOVA = distinct(
    *(0, 0x1000, 0x2000, 0x3000, 0x10000, 0x1F_F000, 0x20_0000, 0x3FFF_F000, 0x4000_0000),
    *(1, 8, 0xFF8, 0xFFF, 0x1001),
    # The interrupt range, which is not translated (VT-d spec 3.13), device registers, reserved memory.
    *(hole + step for hole in (limits.IOVA_HOLE.start, limits.IOVA_HOLE.stop) for step in (-PAGE_SIZE, 0)),
    boot.MMIO_BASE,
    *(boot.RESERVED_BASE + step for step in (-PAGE_SIZE, 0, PAGE_SIZE)),
    *(limits.IOVA_LIMIT + step for step in (-2 * PAGE_SIZE, -PAGE_SIZE, -8, -1, 0, PAGE_SIZE)),
    *((1 << 48) - PAGE_SIZE, 1 << 48, 1 << 63, _TOP - PAGE_SIZE, _TOP - 8, _TOP - 1),
)
COUNT = bounded(4, 4, 9, 16, 32, 64, 256, 512, 1 << 20)
INDEX = distinct(
    *(0, 1, 2, 3, 16, 63, 64),
    # Indices of 8-byte elements whose byte offset exceeds 64 bits, or wraps to below the base.
    *((_TOP >> 3) - back for back in (1, 8, 0x200, 1 << 14, 1 << 17, 1 << 32)),
    *(hole >> 3 for hole in (boot.HYPERVISOR_HOLE_START, boot.HYPERVISOR_HOLE_END)),
    *(_TOP >> 3, 1 << 32, 1 << 63, _TOP - 1),
)
ORDER = (0, 9, 1, 8, 10, 18, 52, 63, 64, 255)
RIGHTS = (1, 3, 0, 2, 4, 5, 6, 7, 8, 0x80, 0xFF)
"""Valid values first: R, then RW."""
DOMAIN = (0, 1, 2, 3, limits.SELF - 1, limits.SELF, limits.SELF + 1, 0x7FFF, 0x8000, 0xFFFF)
DEVICE = (0, 1, 2, 3, 4, 0xFF, 0x100, 0x7FFF, 0xFFFF)
VCPU = bounded(4, 4)
GRANT_REF = bounded(4, limits.GRANTS)
HANDLE = bounded(4, limits.HANDLES)
PORT = bounded(4, 32, 64, 96, limits.PORTS)
LENGTH = bounded(4, 8, 64, limits.CONSOLE, PAGE_SIZE, limits.DMA_LENGTH)
OFFSET = (0, 1, 7, 8, 0x800, 0xFF8, 0xFFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0xFFFF)
TIMEOUT = distinct(0, 1, 0x1000, 0x10000, *around(8, (1 << 32, 1 << 63)), _TOP - 1)
