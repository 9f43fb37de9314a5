"""The steps on frames, stage 2 and device mappings: what the effects of `memory` and `device` calls are made of.

Each step is one indivisible change, after which every invariant holds again: tables, caches, reference counts and
frame states agree. Within a step the order is always the same: take away the mapping, flush, and only then let go
of the frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hvfuzz.hypervisor.core.effects import PAGE_WORK, PREEMPTION_QUOTA
from hvfuzz.hypervisor.core.host import HostBug
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.hypervisor.memory.table_tree import READ as DMA_READ
from hvfuzz.hypervisor.memory.table_tree import RIGHTS
from hvfuzz.hypervisor.memory.table_tree import WRITE as DMA_WRITE
from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.machine.devices.dma_engine import START, Register
from hvfuzz.machine.devices.register_windows import REGISTERS_BASE

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor

REGISTERS_FRAME = REGISTERS_BASE >> PAGE_SHIFT
"""Frame number of the registers of device 0; each further device has the next one."""


class PopulatePage(NamedTuple):
    """The absent `gfn` of `domain` gets the free frame `hfn`, with all rights."""

    domain: int
    gfn: int
    hfn: int

    @property
    def work(self) -> int:
        """One page."""
        return PAGE_WORK

    def apply(self, hv: Hypervisor) -> None:
        """Take the frame, then map it."""
        hv.allocator.take(self.hfn, self.domain, FrameState.OWNED)
        hv.domains[self.domain].stage2.map(self.gfn, self.hfn, RIGHTS)


class PopulateBlock(NamedTuple):
    """The 512 absent pages from `gfn` on get the free block `hfn`, as one large leaf with all rights."""

    domain: int
    gfn: int
    hfn: int

    @property
    def work(self) -> int:
        """512 frames: a preemption point before and after."""
        return PREEMPTION_QUOTA

    def apply(self, hv: Hypervisor) -> None:
        """Take the block, then map it."""
        hv.allocator.take_block(self.hfn, self.domain, FrameState.OWNED)
        hv.domains[self.domain].stage2.map(self.gfn, self.hfn, RIGHTS, block=True)


class RemovePage(NamedTuple):
    """`gfn` of `domain` loses its frame `hfn`, which becomes free."""

    domain: int
    gfn: int
    hfn: int

    @property
    def work(self) -> int:
        """One page."""
        return PAGE_WORK

    def apply(self, hv: Hypervisor) -> None:
        """Unmap and flush, then scrub and free; a frame that is still mapped must not be freed."""
        if not hv.domains[self.domain].stage2.unmap(self.gfn):
            raise HostBug("a checked removal found no page to split a superpage with")
        hv.allocator.free_page(self.hfn)


class RemoveBlock(NamedTuple):
    """The large leaf at `gfn` goes as a whole, and its 512 frames from `hfn` on become free."""

    domain: int
    gfn: int
    hfn: int

    @property
    def work(self) -> int:
        """512 frames: a preemption point before and after."""
        return PREEMPTION_QUOTA

    def apply(self, hv: Hypervisor) -> None:
        """Unmap and flush, then scrub and free."""
        hv.domains[self.domain].stage2.unmap_block(self.gfn)
        hv.allocator.free_block(self.hfn)


class ExchangePage(NamedTuple):
    """`gfn` of `domain` gets the free frame `new`, with the rights it has; its frame `old` becomes free."""

    domain: int
    gfn: int
    old: int
    new: int

    @property
    def work(self) -> int:
        """One page."""
        return PAGE_WORK

    def apply(self, hv: Hypervisor) -> None:
        """Map the new frame in place of the old, flush, then scrub and free."""
        hv.allocator.take(self.new, self.domain, FrameState.OWNED)
        if not hv.domains[self.domain].stage2.replace(self.gfn, self.new):
            raise HostBug("a checked exchange found no page to split a superpage with")
        hv.allocator.free_page(self.old)


class ProtectRange(NamedTuple):
    """The `pages` present pages of `domain` from `first` on, all in one table of leaves, get `rights`."""

    domain: int
    first: int
    pages: int
    rights: int

    @property
    def work(self) -> int:
        """One entry a page; a whole large leaf is a single entry."""
        return min(self.pages * PAGE_WORK, PREEMPTION_QUOTA)

    def apply(self, hv: Hypervisor) -> None:
        """Change the rights, merge where that is possible, and flush."""
        if not hv.domains[self.domain].stage2.protect(self.first, self.pages, self.rights):
            raise HostBug("a checked protection found no page to split a superpage with")


class PutGuest(NamedTuple):
    """The bytes `data` are written at `gva`, in the address space of `vcpu`; the check found the range writable."""

    vcpu: int
    gva: int
    data: bytes

    def apply(self, hv: Hypervisor) -> None:
        """Write; a guest that meanwhile gave its own page tables away has nowhere left to look for the data."""
        guest_access.raw_copy_to_guest(hv, hv.machine.vcpus[self.vcpu], self.gva, self.data)


class MapDma(NamedTuple):
    """Device page `page` of `domain` names `hfn` with `rights`, whatever it named before."""

    domain: int
    page: int
    hfn: int
    rights: int

    @property
    def work(self) -> int:
        """One page."""
        return PAGE_WORK

    def apply(self, hv: Hypervisor) -> None:
        """Replace the leaf; a displaced one is flushed before its frame is let go."""
        hv.domains[self.domain].dma.map(self.page, self.hfn, self.rights)
        if hv.windows:
            hv.windows.pop((self.domain, self.page), None)
        if self.hfn >= REGISTERS_FRAME:
            hv.windows[self.domain, self.page] = self.hfn - REGISTERS_FRAME


class UnmapDma(NamedTuple):
    """Device page `page` of `domain` names nothing any more."""

    domain: int
    page: int

    @property
    def work(self) -> int:
        """One page."""
        return PAGE_WORK

    def apply(self, hv: Hypervisor) -> None:
        """Remove the leaf, flush, and let the frame go."""
        hv.domains[self.domain].dma.unmap(self.page)
        if hv.windows:
            hv.windows.pop((self.domain, self.page), None)


class AssignDevice(NamedTuple):
    """Device number `device` belongs to `domain` from now on."""

    device: int
    domain: int

    def apply(self, hv: Hypervisor) -> None:
        """Map the memory that firmware keeps for it, then point its context entry to the domain's tables."""
        bdf = hv.machine.devices[self.device].bdf
        dma = hv.domains[self.domain].dma
        for page in hv.reserved.get(bdf, ()):
            dma.map(page, page, DMA_READ | DMA_WRITE)
        hv.iommu.attach(bdf, dma)


class DeassignDevice(NamedTuple):
    """Device number `device` belongs to nobody from now on."""

    device: int

    def apply(self, hv: Hypervisor) -> None:
        """Block its requests, and those to its registers, then reset it: they may hold what its last owner put there.

        So may its reserved memory, of which a device that was reset makes no use.
        """
        device = hv.machine.devices[self.device]
        dma = hv.domains[hv.iommu.domain_of(device.bdf)].dma
        hv.iommu.detach(device.bdf)
        window = hv.window_of(self.device)
        if window is not None:
            dma.unmap(window[1])
            del hv.windows[window]
        reserved = hv.reserved.get(device.bdf, ())
        for page in reserved:
            dma.unmap(page)
        device.reset()
        for page in reserved:
            hv.host.fill(page, 0)


class SubmitDma(NamedTuple):
    """Device number `device` copies `length` bytes from device address `source` to `target`."""

    device: int
    source: int
    target: int
    length: int

    @property
    def work(self) -> int:
        """One page."""
        return PAGE_WORK

    def apply(self, hv: Hypervisor) -> None:
        """Program the engine and ring its bell."""
        engine = hv.machine.devices[self.device]
        for register, value in (
            (Register.SRC, self.source),
            (Register.DST, self.target),
            (Register.LENGTH, self.length),
            (Register.CONTROL, START),
        ):
            engine.mmio_write(register, 8, value)
