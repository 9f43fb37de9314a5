"""The way of a guest physical address, or of a device's, through the tables in memory, and what the caches say."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import click

from hvfuzz.explain.recording.paths import cached_translations, table_entries
from hvfuzz.explain.recording.recorded_moments import Path
from hvfuzz.explain.telling.explanation import PathStory
from hvfuzz.explain.telling.path_stories import path_lines, path_story
from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.machine import Machine
from hvfuzz.machine.mmu.ept import EP4TA
from hvfuzz.machine.vtd.walker import Blocked
from hvfuzz.oracles.shadow.changes import ADDRESS, DMA, DMA_RIGHTS, EPT_RIGHTS, is_link


class TablePath(NamedTuple):
    """A way through tables, and the hpa at its end; None if the address is not mapped."""

    address: int
    story: PathStory
    hpa: int | None

    def lines(self, when: str) -> Iterator[str]:
        """The way in words."""
        yield f"{self.story.address}, {when}"
        yield from path_lines(self.story)
        yield "= not mapped" if self.hpa is None else f"= hpa {self.hpa:#x}"

    def as_document(self) -> dict[str, Any]:
        """The same for JSON."""
        entries = [entry._asdict() for entry in self.story.entries]
        return {"address": self.address, "entries": entries, "cached": self.story.cached or None, "hpa": self.hpa}


def path_of_gpa(machine: Machine, vcpu: VCpu, gpa: int) -> TablePath:
    """The way of a guest physical address through the EPT that `vcpu` uses."""
    return _path(machine, (vcpu.eptp & EP4TA) >> PAGE_SHIFT, vcpu.domain, gpa)


def path_of_iova(machine: Machine, number: int, iova: int) -> TablePath:
    """The way of an address that device `number` uses, through the tables that its context entry names."""
    if number >= len(machine.devices):
        raise click.BadParameter(f"the devices are 0 to {len(machine.devices) - 1}", param_hint="--device")
    context = machine.iommu.tables.context(machine.iommu.root_table, machine.devices[number].bdf)
    if isinstance(context, Blocked):
        raise click.ClickException(f"device {number} is blocked: {context.reason.name}")
    return _path(machine, context.slptptr >> PAGE_SHIFT, context.did - 1 | DMA, iova)


def _path(machine: Machine, root: int, space: int, address: int) -> TablePath:
    page = address >> PAGE_SHIFT
    entries = table_entries(machine.memory, root, space, page)
    last = entries[-1] if entries else None
    hpa: int | None = None
    rights = DMA_RIGHTS if space & DMA else EPT_RIGHTS
    if last is not None and last.entry & rights and not is_link(last.entry, last.level):
        within = (1 << PAGE_SHIFT + 9 * (last.level - 1)) - 1
        hpa = last.entry & ADDRESS & ~within | address & within
    stale = [
        text
        for where, of, hfn, text in cached_translations(machine)
        if (where, of) == (space, page) and (hpa is None or hfn != hpa >> PAGE_SHIFT)
    ]
    return TablePath(address, path_story(Path(space, page, entries, stale[0] if stale else "", own=True)), hpa)
