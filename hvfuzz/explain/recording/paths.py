"""The ways that lead to a frame at one moment: the tables that name it, and the cached translations of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from hvfuzz.explain.recording.recorded_moments import Path, TableEntry
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.machine.addresses import PAGE_SHIFT, WORDS_PER_PAGE, rights_text
from hvfuzz.machine.mmu.ept import EP4TA
from hvfuzz.oracles.shadow.changes import (
    ADDRESS,
    DMA,
    DMA_LEVELS,
    DMA_RIGHTS,
    EPT_LEVELS,
    EPT_RIGHTS,
    is_link,
)

if TYPE_CHECKING:
    from hvfuzz.machine.machine import Machine
    from hvfuzz.machine.physical_memory import PhysicalMemory
    from hvfuzz.oracles.framework.suite import OracleSuite

MOST: Final = 4
"""Paths that are kept for one finding."""


def paths_to(suite: OracleSuite, frames: Iterable[int]) -> tuple[Path, ...]:
    """The paths to any of `frames`: those by which caches lead there first, then those of tables."""
    wanted = frozenset(frames)
    cached = {
        (space, page): (hfn, text) for space, page, hfn, text in cached_translations(suite.machine) if hfn in wanted
    }
    pages = {(space, page): (hfn, "") for space, page, hfn in _mapped(suite, wanted)}
    paths = [
        Path(space, page, _entries(suite, space, page), text, _is_own(suite, space, hfn))
        for (space, page), (hfn, text) in (cached | pages | cached).items()
    ]
    # What leads to a frame of another owner comes first.
    return tuple(sorted(paths, key=lambda path: path.own))[:MOST]


def _is_own(suite: OracleSuite, space: int, hfn: int) -> bool:
    """Whether the frame table says that the frame belongs to the domain of the space."""
    words, memory = suite.machine.memory.words, suite.machine.memory
    if not 0 <= hfn < memory.frames:
        return False
    word: int = words[(suite.hypervisor.frames.base >> 3) + hfn]
    return word & 0xFF == space & ~DMA and word >> 8 & 0xFF in (FrameState.OWNED, FrameState.SHARED)


def cached_translations(machine: Machine) -> Iterator[tuple[int, int, int, str]]:
    """(space, page, hfn, in words) of each cached translation; a page of a GVA counts as that of its GPA."""
    spaces = {vcpu.eptp & EP4TA: vcpu.domain for vcpu in machine.vcpus}
    for (_, _, root, gva), (hpa, rights, _, _, _, gpa) in machine.tlb.combined.items():
        text = f"the TLB, for gva {gva << PAGE_SHIFT:#x}: frame {hpa >> PAGE_SHIFT:#x}, rights {rights_text(rights)}"
        yield spaces.get(root, -1), gpa >> PAGE_SHIFT, hpa >> PAGE_SHIFT, text
    for (root, page), (hpa, rights, _) in machine.tlb.guest_physical.items():
        text = f"the TLB: frame {hpa >> PAGE_SHIFT:#x}, rights {rights_text(rights)}"
        yield spaces.get(root, -1), page, hpa >> PAGE_SHIFT, text
    for (did, page), (hpa, rights) in machine.iommu.iotlb.items():
        text = f"the IOTLB: frame {hpa >> PAGE_SHIFT:#x}, rights {rights_text(rights)}"
        yield did - 1 | DMA, page, hpa >> PAGE_SHIFT, text


def _mapped(suite: OracleSuite, frames: frozenset[int]) -> Iterator[tuple[int, int, int]]:
    """(space, page, hfn) of each leaf for one of the frames, as the tables were when they were last followed."""
    shadow = suite.shadow
    for hfn in frames:
        for word in (*shadow.leaves.get(hfn, ()), *shadow.large.get(hfn >> 9, ())):
            leaf = shadow.leaf(word)
            if leaf is not None:
                yield leaf.space, leaf.page + (hfn - leaf.frame), hfn


def _entries(suite: OracleSuite, space: int, page: int) -> tuple[TableEntry, ...]:
    return table_entries(suite.machine.memory, suite.shadow.roots.get(space, -1), space, page)


def table_entries(memory: PhysicalMemory, root: int, space: int, page: int) -> tuple[TableEntry, ...]:
    """Walk the tables from the one in frame `root` on, as memory is now, to the entry for `page` of a space."""
    entries: list[TableEntry] = []
    level = DMA_LEVELS if space & DMA else EPT_LEVELS
    present = DMA_RIGHTS if space & DMA else EPT_RIGHTS
    table = root
    while 0 <= table < memory.frames:
        slot = page >> 9 * (level - 1) & WORDS_PER_PAGE - 1
        entry: int = memory.words[(table << 9) + slot]
        entries.append(TableEntry(level, table, slot, entry))
        if not entry & present or not is_link(entry, level):
            break
        table, level = (entry & ADDRESS) >> PAGE_SHIFT, level - 1
    return tuple(entries)
