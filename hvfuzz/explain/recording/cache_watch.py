"""Notices what comes into the caches of a machine and what leaves them, by comparing them with what they were."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from hvfuzz.explain.recording.recorded_moments import Cached, Dropped, Who
from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.machine.mmu.ept import EP4TA

if TYPE_CHECKING:
    from hvfuzz.machine.machine import Machine

TLB: Final = "TLB"
GUEST_PHYSICAL: Final = "TLB (guest-physical)"
IOTLB: Final = "IOTLB"

Entry = tuple[str, Who, int, int, int]
"""(cache, for whom, page, hfn, rights); the page is of a GVA in the TLB, else of a GPA or an IOVA."""


class CacheWatch:
    """The caches of one machine. The paging-structure caches hold no translation of a page, and are left out."""

    __slots__ = ("_known", "_machine")

    def __init__(self, machine: Machine) -> None:
        self._machine: Final = machine
        self._known: dict[Entry, None] = {}

    def begin(self) -> tuple[Cached, ...]:
        """Take what is cached now as known, and return it."""
        self._known = dict.fromkeys(self._entries())
        return tuple(Cached(*entry) for entry in self._known)

    def changes(self) -> Iterator[Cached | Dropped]:
        """What left the caches since the last look, then what came into them."""
        known, now = self._known, dict.fromkeys(self._entries())
        if known.keys() == now.keys():
            return
        self._known = now
        yield from (Dropped(*entry) for entry in known if entry not in now)
        yield from (Cached(*entry) for entry in now if entry not in known)

    def _entries(self) -> Iterator[Entry]:
        machine = self._machine
        vcpus = {vcpu.vpid: Who(vcpu.domain, vcpu.index) for vcpu in machine.vcpus}
        domains = {vcpu.eptp & EP4TA: Who(vcpu.domain) for vcpu in machine.vcpus}
        nobody = Who(-1)
        for (vpid, _, _, page), (hpa, rights, *_) in machine.tlb.combined.items():
            yield TLB, vcpus.get(vpid, nobody), page, hpa >> PAGE_SHIFT, rights
        for (root, page), (hpa, rights, _) in machine.tlb.guest_physical.items():
            yield GUEST_PHYSICAL, domains.get(root, nobody), page, hpa >> PAGE_SHIFT, rights
        for (did, page), (hpa, rights) in machine.iommu.iotlb.items():
            # The domain id is the number of the domain plus 1 (`hypervisor/memory/dma.py`).
            yield IOTLB, Who(did - 1, device="a device"), page, hpa >> PAGE_SHIFT, rights
