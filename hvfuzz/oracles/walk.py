"""Where a guest's own tables lead, read from the bytes of both stages without setting a flag or filling a cache.

More lenient than the processor: reserved bits and memory types are not looked at. So what is not found here, no
processor would find either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvfuzz.machine.addresses import PAGE_SHIFT, WRITE
from hvfuzz.machine.ept import ADDRESS, LARGE, RIGHTS
from hvfuzz.machine.paging import CR0_WP, PS, RW, P

if TYPE_CHECKING:
    from hvfuzz.machine.cpu import VCpu
    from hvfuzz.machine.memory import PhysicalMemory


def guest_virtual(memory: PhysicalMemory, vcpu: VCpu, gva: int, write: bool) -> int | None:
    """The Hpa at which a supervisor access of the vCPU to `gva` arrives; None if one of the stages refuses it."""
    table = vcpu.cr3 & ADDRESS
    writable = True
    for level in (4, 3, 2, 1):
        shift = PAGE_SHIFT + 9 * (level - 1)
        place = guest_physical(memory, vcpu.eptp, table | (gva >> shift & 511) << 3, False)
        entry = None if place is None else _word(memory, place)
        if entry is None or not entry & P:
            return None
        writable = writable and bool(entry & RW)
        if level == 1 or (entry & PS and level < 4):
            if write and not writable and vcpu.cr0 & CR0_WP:
                return None
            offset = (1 << shift) - 1
            return guest_physical(memory, vcpu.eptp, entry & ADDRESS & ~offset | gva & offset, write)
        table = entry & ADDRESS
    return None


def guest_physical(memory: PhysicalMemory, eptp: int, gpa: int, write: bool) -> int | None:
    """The Hpa that stage 2 gives for `gpa`; None if it refuses the access."""
    table = eptp & ADDRESS
    rights = RIGHTS
    for level in (4, 3, 2, 1):
        shift = PAGE_SHIFT + 9 * (level - 1)
        entry = _word(memory, table | (gpa >> shift & 511) << 3)
        if entry is None:
            return None
        rights &= entry
        if not rights & (WRITE if write else RIGHTS):
            return None
        if level == 1 or (entry & LARGE and level < 4):
            offset = (1 << shift) - 1
            return entry & ADDRESS & ~offset | gpa & offset
        table = entry & ADDRESS
    return None


def _word(memory: PhysicalMemory, hpa: int) -> int | None:
    """The word at `hpa`, None where no memory is."""
    if hpa >= memory.size:
        return None
    word: int = memory.words[hpa >> 3]
    return word
