"""Devices given to domains: `device.assign`, and `device.deassign`, which undoes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hvfuzz.abi.declaration import hypercall
from hvfuzz.abi.kinds import DeviceArg, DomainRef
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.effects import Effect, Refused
from hvfuzz.hypervisor.memory.page_checks import POOL_TOO_SMALL
from hvfuzz.hypervisor.memory.table_tree import READ as DMA_READ
from hvfuzz.hypervisor.memory.table_tree import WRITE as DMA_WRITE

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.cpu.vcpu import VCpu


NO_SUCH_DEVICE = Refused(Status.NO_DEVICE, "no such device")


@hypercall(0x60, errors=(Status.NO_DEVICE, Status.NO_DOMAIN, Status.BUSY, Status.NO_POOL), privileged=True)
class Assign:
    """Assign a device to domain `to`. From then on, the device accesses memory through that domain's mappings.

    If firmware reserves memory for the device, the call maps this memory at its own address, with table pages from the
    pool of `to`.

    - `NO_DEVICE`: there is no such device.
    - `NO_DOMAIN`: there is no domain `to`.
    - `BUSY`: the device is assigned.
    - `NO_POOL`: the pool of `to` has too few pages for new tables.
    """

    device: DeviceArg
    to: DomainRef

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """Checks, in order: device, domain, device unassigned, table pages for its reserved memory."""
        device = hv.device(self.device)
        if device is None:
            return NO_SUCH_DEVICE
        to = hv.resolve(caller, self.to)
        if to is None:
            return Refused(Status.NO_DOMAIN, "to")
        # Without this check, a device could move with its state, while its owner keeps its registers mapped.
        if hv.iommu.domain_of(device.bdf) >= 0:
            return Refused(Status.BUSY, "device assigned")
        if to.dma.pool.lacks(to.dma.tables_needed(hv.reserved.get(device.bdf, ()))):
            return POOL_TOO_SMALL
        return Effect((AssignDevice(self.device, to.id),))


class AssignDevice(NamedTuple):
    """Assign device number `device` to `domain`."""

    device: int
    domain: int

    def apply(self, hv: Hypervisor) -> None:
        """Map the device's reserved memory, then point its context entry to the domain's tables.

        In this order, a device that firmware left running never finds its memory unmapped (VT-d spec 8.4).
        """
        bdf = hv.machine.devices[self.device].bdf
        dma = hv.domains[self.domain].dma
        for page in hv.reserved.get(bdf, ()):
            dma.map(page, page, DMA_READ | DMA_WRITE)
        hv.iommu.attach(bdf, dma)


@hypercall(0x61, errors=(Status.NO_DEVICE, Status.NOT_PRESENT), privileged=True)
class Deassign:
    """Take a device from its domain.

    The call blocks the device's DMA, resets the device, unmaps its registers and its reserved memory, and zeroes that
    memory.

    - `NO_DEVICE`: there is no such device.
    - `NOT_PRESENT`: the device is not assigned.
    """

    device: DeviceArg

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """Checks, in order: device, device assigned."""
        device = hv.device(self.device)
        if device is None:
            return NO_SUCH_DEVICE
        if hv.iommu.domain_of(device.bdf) < 0:
            return Refused(Status.NOT_PRESENT, "device not assigned")
        return Effect((DeassignDevice(self.device),))


class DeassignDevice(NamedTuple):
    """Take device number `device` from its domain."""

    device: int

    def apply(self, hv: Hypervisor) -> None:
        """Block its DMA, unmap its registers and reserved memory, reset it, then zero the reserved memory.

        Registers and reserved memory may hold data of the last owner; a device that was reset does not use either.
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
