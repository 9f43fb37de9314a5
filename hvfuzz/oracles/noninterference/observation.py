"""What a domain observes: its vCPUs after each op, and at the end its memory, events, MSRs and console.

Read from the machine's bytes and the hypervisor's records as they are; nothing here asks the hypervisor to translate.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hvfuzz.machine.addresses import FRAME_ADDRESS, LARGE_FRAMES, PAGE_SHIFT, PAGE_SIZE, WORDS_PER_PAGE

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


def pages(machine: Machine, eptp: int) -> Iterator[tuple[int, int, int]]:
    """(gfn, hfn, rights) of each small page of RAM that the EPT at `eptp` maps; large pages in 512 parts."""
    yield from _pages(machine.memory.words, eptp & FRAME_ADDRESS, LEVELS, 0)


def _pages(words: Any, table: int, level: int, first: int) -> Iterator[tuple[int, int, int]]:
    size = 1 << 9 * (level - 1)
    start = table >> 3
    if start + WORDS_PER_PAGE > len(words):
        return
    for index, entry in enumerate(words[start : start + WORDS_PER_PAGE].tolist()):
        gfn = first + index * size
        if gfn >= RAM_PAGES:
            return
        if not entry & RIGHTS:
            continue
        hfn = (entry & FRAME_ADDRESS) >> PAGE_SHIFT
        if level == 1:
            yield gfn, hfn, entry & RIGHTS
        elif not entry & IS_LEAF:
            yield from _pages(words, entry & FRAME_ADDRESS, level - 1, gfn)
        elif size <= LARGE_FRAMES:
            yield from ((gfn + part, hfn + part, entry & RIGHTS) for part in range(size))


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
    for gfn, hfn, rights in pages(hv.machine, hv.domains[domain].vcpus[0].eptp):
        total = zlib.crc32(f"{gfn},{rights}".encode(), total)
        if (hfn + 1) << PAGE_SHIFT <= memory.size:
            total = zlib.crc32(memory.data[hfn << PAGE_SHIFT : (hfn + 1) << PAGE_SHIFT], total)
    return total


def first_difference(first: Hypervisor, second: Hypervisor, domain: int) -> tuple[str, str, str] | None:
    """(rule, what there is in the first run, in the second) of the first thing the domain has that differs; or None."""
    one, two = first.machine.memory, second.machine.memory
    mapped = [list(pages(hv.machine, hv.domains[domain].vcpus[0].eptp)) for hv in (first, second)]
    if mapped[0] != mapped[1]:
        rights = [{gfn: bits for gfn, _, bits in each} for each in mapped]
        for gfn in range(RAM_PAGES):
            mine, other = (each.get(gfn, 0) for each in rights)
            if mine != other:
                return "mapping", f"page {gfn:#x} with rights {mine}", f"rights {other}"
    for (gfn, hfn, _), (_, other_hfn, _) in zip(*mapped, strict=True):
        if hfn == other_hfn and hfn not in one.dirty and hfn not in two.dirty:
            continue  # as at boot, where both runs hold the same
        mine_data = one.read(hfn << PAGE_SHIFT, PAGE_SIZE)
        other_data = two.read(other_hfn << PAGE_SHIFT, PAGE_SIZE)
        if mine_data != other_data:
            at = next(offset for offset in range(0, PAGE_SIZE, 8) if mine_data[offset:][:8] != other_data[offset:][:8])
            words = [int.from_bytes(data[at : at + 8], "little") for data in (mine_data, other_data)]
            return "memory", f"{words[0]:#x} at page {gfn:#x}, offset {at:#x}", f"{words[1]:#x}"
    for (rule, mine_kept), (_, other_kept) in zip(lasting(first, domain), lasting(second, domain), strict=True):
        if mine_kept != other_kept:
            return rule, f"{mine_kept!r}", f"{other_kept!r}"
    return None
