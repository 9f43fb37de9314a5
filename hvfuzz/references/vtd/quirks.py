"""Known deviations of QEMU's intel-iommu and edu device from the manual, and uses of what it leaves open.

Section numbers refer to the VT-d specification (Intel D51397, revision 3). `hvfuzz.references.vtd.manual` says what
each of them changes. Two more deviations are out of reach, since no case goes there: QEMU ends with a failed assertion
at a wait descriptor with both SW and IF, and translates a DMA that runs into 0xFEExxxxx within a superpage.
"""

from collections.abc import Iterable
from typing import Final

from hvfuzz.references.reference import Quirk

SILENT: Final = Quirk(
    "silent-permission",
    "a request that a cached translation does not permit is dropped, without a walk and without a fault",
    "a blocked request is recorded as a fault, with reason 5 for a write and 6 for a read (7.1.3, 7.2.1)",
)
BY_SOURCE: Final = Quirk(
    "iotlb-by-source",
    "the IOTLB is looked up by requester id, not by domain id: devices of one domain share no translation",
    "translations are tagged by domain id (6.2.1), and devices of one domain may share them",
)
IOTLB_FIRST: Final = Quirk(
    "iotlb-first",
    "the IOTLB is looked up before the context entry: a translation outlives the context entry that it came from",
    "translations are tagged with the domain id of the context entry (6.2.1), so without a context entry none is found",
)
SUPERPAGE: Final = Quirk(
    "superpage-entry",
    "a superpage is one entry of the IOTLB, and is dropped when any 4 KiB page of it is invalidated",
    "both are allowed; software must use an address mask that covers the superpage (10.4.8.2)",
)
ADDRESS_MASK: Final = Quirk(
    "page-invalidation-of-eight-bits",
    "a page-selective invalidation compares only bits 12 to 19 of the address, and drops other pages of the domain too",
    "the 2**AM pages around the address are invalidated (10.4.8.2); hardware may drop more",
)
CONTEXT_DOMAIN: Final = Quirk(
    "context-domain-is-global",
    "a domain-selective context invalidation is performed as a global one (CAIG says so)",
    "hardware may invalidate more than requested, and reports the actual granularity in CAIG (10.4.7)",
)
CONTEXT_DEVICE: Final = Quirk(
    "context-device-ignores-did",
    "a device-selective context invalidation ignores the domain id",
    "entries of the device and the domain are invalidated (6.5.1.1); hardware may drop more",
)
PASS_WIDTH: Final = Quirk(
    "pass-through-width",
    "requests beyond the address width of a pass-through context entry are passed through",
    "such requests are blocked with reason 4 (7.1.3)",
)
PASS_EARLY: Final = Quirk(
    "pass-through-early",
    "pass-through is read from the context entry when the entry is invalidated, not when a request uses it",
    "context entries are read on a request, and hardware may cache them then (6.2.2)",
)
INTERRUPT_SUPERPAGE: Final = Quirk(
    "interrupt-superpage",
    "all of a superpage that overlaps 0xFEExxxxx is blocked, with reason 14",
    "only requests whose translation lies in that range are blocked (3.14)",
)
PASID_BITS: Final = Quirk(
    "frcd-pasid",
    "PV of a fault recording register reads 0xFFFF for a request without PASID that has a usable context entry",
    "PV is relevant only if PP is set (10.4.14)",
)
EVENT_PENDING: Final = Quirk(
    "event-stays-pending",
    "IP in FECTL_REG is cleared by the next write of FSTS_REG, not already when F is cleared",
    "IP is cleared together with the last status field; clearing F clears PPF (10.4.10)",
)
QUEUE_RESUME: Final = Quirk(
    "queue-resume",
    "after software clears IQE, no descriptor is fetched until it writes the tail register again",
    "hardware resumes at the head when IQE is cleared (6.5.2.10)",
)
QUEUE_TYPES: Final = Quirk(
    "queue-types",
    "descriptors for device TLBs, interrupt entries and PASIDs are accepted without support in CAP_REG and ECAP_REG",
    "a descriptor of an unsupported feature is invalid, and sets IQE (6.5.2.10)",
)
FLUSHES: Final = Quirk(
    "flush-on-global-command",
    "setting the root table and switching translation on or off empties both caches",
    "software must invalidate (6.6); hardware may do so as well",
)
FPD_RESERVED: Final = Quirk(
    "fpd-reserved-context",
    "a fault of reason 11 is recorded even if FPD is set",
    "the fault is a qualified fault, which FPD suppresses (7.1.3)",
)

QUIRKS: Final = (
    SILENT,
    BY_SOURCE,
    IOTLB_FIRST,
    SUPERPAGE,
    ADDRESS_MASK,
    CONTEXT_DOMAIN,
    CONTEXT_DEVICE,
    PASS_WIDTH,
    PASS_EARLY,
    INTERRUPT_SUPERPAGE,
    PASID_BITS,
    EVENT_PENDING,
    QUEUE_RESUME,
    QUEUE_TYPES,
    FLUSHES,
    FPD_RESERVED,
)


class Uses:
    """Says of each quirk whether it is on, and keeps the quirks that mattered for an answer."""

    def __init__(self, some: Iterable[Quirk]) -> None:
        self._on: Final = {quirk.name for quirk in some}
        self.asked: Final[set[str]] = set()
        """Names of the quirks that were found on."""

    def __call__(self, quirk: Quirk) -> bool:
        if quirk.name not in self._on:
            return False
        self.asked.add(quirk.name)
        return True
