"""What a domain observes: its vCPUs after each op, and at the end its memory, events, MSRs and console.

Read from the machine's bytes and the hypervisor's records as they are; nothing here asks the hypervisor to translate.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hvfuzz.machine.addresses import FRAME_ADDRESS, LARGE_FRAMES, PAGE_SHIFT, PAGE_SIZE, rights_text

if TYPE_CHECKING:
    from hvfuzz.guest.run.trace import Outcome
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.machine.machine import Machine
    from hvfuzz.oracles.noninterference.roundings import Timing

RIGHTS: Final = 7
"""R, W and X of an EPT entry (SDM Vol. 3C, 29.3.2)."""
IS_LEAF: Final = 1 << 7
LEVELS: Final = 4
RAM_PAGES: Final = 1 << 11
"""Guest frame numbers of RAM are below (`MAX_GFN` of ABI.md)."""

VcpuState = tuple[Any, ...]
STATE: Final = (
    "registers", "run state", "CPL", "CR0", "CR2", "CR3", "CR4", "EFER", "CS", "SS", "IDTR", "TR"
)  # fmt: skip
"""What the places of a `VcpuState` hold."""


class Moment(NamedTuple):
    """One op as its domain saw it."""

    timing: Timing
    outcomes: tuple[Outcome, ...]
    states: tuple[VcpuState, ...]
    """Of each vCPU of the actor's domain, after the op."""
    short: bool
    """Whether a call in it was refused because too few host frames are free."""
    tables: int
    """Free table pages of the domain, if the op may have joined 512 small pages into a large one; else -1."""


def state_of(vcpu: VCpu) -> VcpuState:
    """The state of a vCPU, in the order of `STATE`."""
    return (
        tuple(vcpu.regs),
        int(vcpu.runnable),
        vcpu.cpl,
        vcpu.cr0,
        vcpu.cr2,
        vcpu.cr3,
        vcpu.cr4,
        vcpu.efer,
        vcpu.cs,
        vcpu.ss,
        vcpu.idtr,
        vcpu.tr,
    )


class Leaves(NamedTuple):
    """The pages that one page table maps, or that a large page has."""

    pages: tuple[tuple[int, int, int], ...]
    """(gfn, hfn, rights) of each small page; those of a large page in 512 parts."""
    frames: frozenset[int]
    """Their hfns."""


def leaves(machine: Machine, eptp: int) -> list[Leaves]:
    """What the EPT at `eptp` maps of RAM, in ascending order of gfns. Equal tables have the same object."""
    found: list[Leaves] = []
    _walk(machine, eptp & FRAME_ADDRESS, LEVELS, 0, found)
    return found


def _walk(machine: Machine, table: int, level: int, first: int, found: list[Leaves]) -> None:
    memory = machine.memory
    if table + PAGE_SIZE > memory.size:
        return
    data = memory.read(table, PAGE_SIZE)
    if level == 1:
        found.append(_of_table(data, first))
        return
    size = 1 << 9 * (level - 1)
    for index, entry in _present(data):
        gfn = first + index * size
        if gfn >= RAM_PAGES:
            return
        if not entry & IS_LEAF:
            _walk(machine, entry & FRAME_ADDRESS, level - 1, gfn, found)
        elif size == LARGE_FRAMES:
            found.append(_of_large(entry, gfn))


@lru_cache(1 << 10)  # most tables are as at boot
def _present(table: bytes) -> tuple[tuple[int, int], ...]:
    """(index, entry) of each entry of a table that gives a right."""
    words = memoryview(table).cast("Q")
    return tuple((index, entry) for index, entry in enumerate(words) if entry & RIGHTS)


@lru_cache(1 << 10)
def _of_table(table: bytes, first: int) -> Leaves:
    found = tuple(
        (first + index, (entry & FRAME_ADDRESS) >> PAGE_SHIFT, entry & RIGHTS)
        for index, entry in _present(table)
        if first + index < RAM_PAGES
    )
    return Leaves(found, frozenset(hfn for _, hfn, _ in found))


@lru_cache(1 << 6)
def _of_large(entry: int, gfn: int) -> Leaves:
    hfn = (entry & FRAME_ADDRESS) >> PAGE_SHIFT
    found = tuple((gfn + part, hfn + part, entry & RIGHTS) for part in range(LARGE_FRAMES))
    return Leaves(found, frozenset(range(hfn, hfn + LARGE_FRAMES)))


def pages(hv: Hypervisor, domain: int) -> list[tuple[int, int, int]]:
    """(gfn, hfn, rights) of each page of the domain's RAM."""
    return [page for part in leaves(hv.machine, hv.domains[domain].vcpus[0].eptp) for page in part.pages]


def pending(hv: Hypervisor, domain: int) -> tuple[int, ...]:
    """The allocated ports of the domain that have an event."""
    return tuple(
        index * len(bucket.ports) + number
        for index, bucket in enumerate(hv.domains[domain].buckets)
        if bucket is not None
        for number, port in enumerate(bucket.ports)
        if port is not None and port.pending
    )


def lasting(hv: Hypervisor, domain: int) -> Iterator[tuple[str, object]]:
    """(rule, value) of what the domain keeps besides memory."""
    yield "events", pending(hv, domain)
    yield "console", bytes(hv.domains[domain].console)
    for vcpu in hv.domains[domain].vcpus:
        yield "msrs", tuple(sorted(vcpu.msrs.items()))


def digest(hv: Hypervisor, domain: int) -> int:
    """A check sum of all that the domain has, memory included."""
    memory = hv.machine.memory
    total = zlib.crc32(repr(tuple(lasting(hv, domain))).encode())
    for gfn, hfn, rights in pages(hv, domain):
        total = zlib.crc32(f"{gfn},{rights}".encode(), total)
        if (hfn + 1) << PAGE_SHIFT <= memory.size:
            total = zlib.crc32(memory.data[hfn << PAGE_SHIFT : (hfn + 1) << PAGE_SHIFT], total)
    return total


def first_difference(first: Hypervisor, second: Hypervisor, domain: int) -> tuple[str, str, str] | None:
    """(rule, what there is in the first run, in the second) of the first thing the domain has that differs; or None."""
    changed = first.machine.memory.dirty | second.machine.memory.dirty
    tables = [leaves(hv.machine, hv.domains[domain].vcpus[0].eptp) for hv in (first, second)]
    if len(tables[0]) == len(tables[1]) and all(one is other for one, other in zip(*tables, strict=True)):
        # The same frames, which hold the same at boot: only those that were written since can differ.
        same = ((gfn, hfn, hfn) for part in tables[0] if part.frames & changed for gfn, hfn, _ in part.pages)
        difference = _of_contents(first, second, (each for each in same if each[1] in changed))
    else:
        difference = _of_mappings(first, second, domain)
    if difference is not None:
        return difference
    for (rule, kept), (_, other_kept) in zip(lasting(first, domain), lasting(second, domain), strict=True):
        if kept != other_kept:
            return rule, f"{kept!r}", f"{other_kept!r}"
    return None


def _of_mappings(first: Hypervisor, second: Hypervisor, domain: int) -> tuple[str, str, str] | None:
    mapped = [{gfn: (hfn, rights) for gfn, hfn, rights in pages(hv, domain)} for hv in (first, second)]
    for gfn in sorted(mapped[0].keys() | mapped[1].keys()):
        rights = [each.get(gfn, (0, 0))[1] for each in mapped]
        if rights[0] != rights[1]:
            return "mapping", f"page {gfn:#x} with rights {rights_text(rights[0])}", f"rights {rights_text(rights[1])}"
    frames = ((gfn, hfn, mapped[1][gfn][0]) for gfn, (hfn, _) in sorted(mapped[0].items()))
    return _of_contents(first, second, frames)


def _of_contents(
    first: Hypervisor, second: Hypervisor, frames: Iterable[tuple[int, int, int]]
) -> tuple[str, str, str] | None:
    """Compare the frames of each gfn, of which `frames` has that of the first run and that of the second."""
    for gfn, *both in frames:
        one, other = (_contents(hv, hfn) for hv, hfn in zip((first, second), both, strict=True))
        if one != other:
            at = next(at for at in range(0, PAGE_SIZE, 8) if one[at : at + 8] != other[at : at + 8])
            words = [int.from_bytes(data[at : at + 8], "little") for data in (one, other)]
            return "memory", f"{words[0]:#x} at page {gfn:#x}, offset {at:#x}", f"{words[1]:#x}"
    return None


def _contents(hv: Hypervisor, hfn: int) -> bytes:
    """The bytes of a frame; none if a broken table names one that does not exist."""
    memory = hv.machine.memory
    return memory.read(hfn << PAGE_SHIFT, PAGE_SIZE) if hfn < memory.frames else b""
