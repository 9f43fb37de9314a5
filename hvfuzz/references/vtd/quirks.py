"""Where QEMU's intel-iommu and edu are known to differ from the manual, or to use a freedom that it leaves.

Sections are those of the VT-d specification (Intel D51397, revision 3).
"""

from typing import Final

from hvfuzz.references.reference import Quirk

SILENT: Final = Quirk(
    "silent-permission",
    "a request that lacks the right in a cached translation is dropped, without a walk and without a fault",
    "a blocked request is a fault, 5 for a write and 6 for a read, and is recorded (7.1.3, 7.2.1)",
)
BY_SOURCE: Final = Quirk(
    "iotlb-by-source",
    "the IOTLB is looked up by requester id, not by domain id: devices of one domain share nothing",
    "translations are tagged by domain id (6.2.1), and devices of one domain may share them",
)
IOTLB_FIRST: Final = Quirk(
    "iotlb-first",
    "the IOTLB is looked up before the context entry: a translation outlives the entry under which it was made",
    "the domain id that tags a translation is that of the context entry (6.2.1): no entry, no translation",
)
SUPERPAGE: Final = Quirk(
    "superpage-entry",
    "a superpage is one entry of the IOTLB, and goes when any page of it is invalidated",
    "either is allowed; software must give an address mask that covers the superpage (10.4.8.2)",
)
ADDRESS_MASK: Final = Quirk(
    "page-invalidation-of-eight-bits",
    "a page-selective invalidation compares bits 12 to 19 of the address only, and drops other pages of the domain too",
    "the 2**AM pages around the address are invalidated (10.4.8.2); more is allowed",
)
CONTEXT_DOMAIN: Final = Quirk(
    "context-domain-is-global",
    "a domain-selective context invalidation is performed as a global one (CAIG says so)",
    "hardware may do more than asked, and reports that in CAIG (10.4.7)",
)
CONTEXT_DEVICE: Final = Quirk(
    "context-device-ignores-did",
    "a device-selective context invalidation does not look at the domain id",
    "entries of the device and the domain are invalidated (6.5.1.1); more is allowed",
)
PASS_WIDTH: Final = Quirk(
    "pass-through-width",
    "addresses beyond the width of a pass-through context entry are let through",
    "they are blocked with reason 4 (7.1.3)",
)
PASS_EARLY: Final = Quirk(
    "pass-through-early",
    "whether a device is passed through is looked up when its context entry is invalidated, not when it is used",
    "context entries are read on a request, and hardware may cache them then (6.2.2)",
)
INTERRUPT_SUPERPAGE: Final = Quirk(
    "interrupt-superpage",
    "a superpage that overlaps 0xFEExxxxx is blocked as a whole, with reason 14",
    "requests whose translation results in that range are blocked (3.14)",
)
INTERRUPT_WINDOW: Final = Quirk(
    "interrupt-window",
    "reads of 0xFEExxxxx give zeros; a DMA that enters it from a superpage is translated on, so no case does that",
    "requests to that range are interrupts and not translated; reads of it are unsuccessful (3.14)",
)
PASID_BITS: Final = Quirk(
    "frcd-pasid",
    "PV of a fault recording register reads 0xFFFF for requests without PASID",
    "PV is relevant only if PP is set (10.4.14)",
)
COMPRESSED: Final = Quirk(
    "one-fault-record",
    "one fault recording register; further faults of the requester that is recorded in it are not recorded",
    "the number of registers is in CAP_REG, and compressing faults is allowed (7.2.1)",
)
EVENT_PENDING: Final = Quirk(
    "event-stays-pending",
    "IP of FECTL_REG is not cleared by clearing F, but only when FSTS_REG is written after that",
    "it is cleared when the last status field is, PPF by way of F (10.4.10)",
)
QUEUE_RESUME: Final = Quirk(
    "queue-resume",
    "after software cleared IQE nothing is fetched until it writes the tail again",
    "hardware goes on at the head when IQE is cleared (6.5.2.10)",
)
QUEUE_TYPES: Final = Quirk(
    "queue-types",
    "descriptors for device TLBs, interrupt entries and PASIDs are accepted, whatever CAP_REG and ECAP_REG say",
    "a descriptor of a feature that is not supported is invalid, and sets IQE (6.5.2.10)",
)
WAIT_BOTH: Final = Quirk(
    "wait-one-effect",
    "a wait descriptor with SW and IF ends QEMU by an assertion, so no case has one; one with neither is invalid",
    "the flags do not depend on each other (6.5.2.8)",
)
FLUSHES: Final = Quirk(
    "flush-on-global-command",
    "setting the root table, and switching translation, empty both caches",
    "software has to invalidate (6.6); hardware may do it too",
)
FPD_RESERVED: Final = Quirk(
    "fpd-reserved-context",
    "FPD does not keep a fault of reason 11 from being recorded",
    "the fault is qualified: FPD suppresses it (7.1.3)",
)
PARTIAL: Final = Quirk(
    "edu-page-crossing",
    "a DMA that crosses a page is two requests: one may arrive where the other is blocked",
    "a request of the bus does not cross a page; the device model here splits in the same way",
)
NO_MEMORY: Final = Quirk(
    "unassigned-zero",
    "a blocked read, and one of an address without memory, put zeros into edu's buffer",
    "an unsuccessful completion carries no data; what the device does then is its own affair",
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
    INTERRUPT_WINDOW,
    PASID_BITS,
    COMPRESSED,
    EVENT_PENDING,
    QUEUE_RESUME,
    QUEUE_TYPES,
    WAIT_BOTH,
    FLUSHES,
    FPD_RESERVED,
    PARTIAL,
    NO_MEMORY,
)
