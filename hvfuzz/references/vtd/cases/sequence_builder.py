"""The steps of a sequence: uses of translations, changes of tables, invalidations, and other actions of software."""

import random
from typing import Final

from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE
from hvfuzz.machine.vtd.invalidation_queue import MOST_ADDRESS_MASK, Granularity
from hvfuzz.machine.vtd.legacy_mode import ENTRY_SIZE
from hvfuzz.references.vtd.case import (
    ClearFaults,
    Descriptor,
    Dma,
    InvalidateContext,
    InvalidateIotlb,
    MaskEvents,
    SetRoot,
    Step,
    Store,
    SwitchTranslation,
    Wait,
)
from hvfuzz.references.vtd.cases.request_cases import WRITTEN_FROM
from hvfuzz.references.vtd.cases.sequence_tables import Place, SequenceTables
from hvfuzz.references.vtd.memory_map import CONTEXTS, OTHER_ROOT, ROOT, SCRATCH, TABLES, slot
from hvfuzz.references.vtd.qemu import DEVICES

INVALID_TYPES: Final = (0, 3, 4, 6, 7, 8, 9, 11, 15)
"""Descriptor types that are reserved, or belong to features that the IOMMU does not report."""
RESERVED_DESCRIPTORS: Final = (
    (1 | 1 << 4 | 1 << 6, 0),
    (1 | 1 << 4 | 1 << 50, 0),
    (1 | 1 << 4, 1),
    (1, 0),
    (2 | 1 << 4 | 1 << 15, 0),
    (2 | 1 << 4 | 1 << 40, 0),
    (2 | 1 << 4, 1 << 7),
    (2, 0),
    (2 | 3 << 4, 19),
    (5 | 1 << 5 | 1 << 31, 0),
    (5 | 1 << 5, 1),
)
"""(low, high) of descriptors with a reserved bit, a reserved granularity, or an address mask that is too large."""


class SequenceBuilder:
    """Collects the steps of a sequence."""

    def __init__(self, rng: random.Random, width: int) -> None:
        self.rng: Final = rng
        self.levels: Final = 3 if width == 39 or rng.random() < 0.2 else 4
        self.queued: Final = rng.random() < 0.5
        self.tables: Final = SequenceTables(rng, self.levels)
        self.steps: list[Step] = []
        self._masked = True

    def dma(self, device: int, place: Place, *, to_memory: bool | None = None) -> None:
        """A DMA to a place; after one that reads, a DMA that writes the data to the scratch page."""
        rng = self.rng
        size = rng.choice((4, 8, 32))
        offset = 0 if place.level == 1 else rng.randrange(2) << PAGE_SHIFT
        if place.level == 3:
            offset |= 1 << 29
        within = rng.randrange(PAGE_SIZE - size)
        if place.level == 1 and rng.random() < 0.15:
            within = PAGE_SIZE - size // 2
        watch = tuple(frame + offset for frame in place.frames)
        if rng.random() < 0.5 if to_memory is None else to_memory:
            start = rng.randrange(WRITTEN_FROM, PAGE_SIZE - size)
            self.steps.append(Dma(device, place.iova + offset + within, size, True, start, watch))
            return
        start = rng.randrange(WRITTEN_FROM - size)
        self.steps.append(Dma(device, place.iova + offset + within, size, False, start, watch))
        self.steps.append(Dma(device, SCRATCH, size, True, start))

    def change(self, device: int, place: Place) -> None:
        """Change a table entry that the device's requests to a place depend on."""
        rng = self.rng
        tables = TABLES[self.tables.owned[device]]
        kind = rng.random()
        if kind < 0.65:
            self.steps.append(self.tables.leaf(tables, place, rng.choice(place.frames), rng.choice((0, 1, 2, 3, 3, 3))))
        elif kind < 0.75 and place.level < self.levels:
            level = rng.randint(place.level + 1, self.levels)
            self.steps.append(Store(slot(tables, place.iova, level), tables[level - 2] | rng.randrange(4)))
        else:
            self.change_context(device)

    def change_context(self, device: int) -> None:
        """Clear the device's context entry, or write that of the other device, or its own with or without flags."""
        rng = self.rng
        kind = rng.randrange(8)
        if kind < 2:
            self.steps.append(Store(CONTEXTS + DEVICES[device] * ENTRY_SIZE, 0))
        elif kind < 4:
            self.steps += self.tables.context(1 - device, as_device=device)
        else:
            self.steps += self.tables.context(device, fpd=kind == 4, pass_through=kind == 5)

    def invalidate(self, device: int, place: Place) -> None:
        """A random invalidation, often of the device and the place."""
        rng = self.rng
        granularity: int = rng.choice((Granularity.GLOBAL, Granularity.DOMAIN, *[Granularity.SELECTIVE] * 4))
        dids = self.tables.dids
        did = dids[device] if rng.random() < 0.8 else rng.choice((dids[1 - device], rng.randrange(1 << 16)))
        if rng.random() < 0.35:
            if not self.queued and rng.random() < 0.05:
                granularity = 0
            self.invalidate_context(device, granularity, did)
            return
        order = rng.choice((0, 0, 1, 2, 3, 9, 9 * (place.level - 1), rng.randint(0, MOST_ADDRESS_MASK)))
        if not self.queued and rng.random() < 0.05:  # IOTLB_REG reports that nothing was invalidated
            order = rng.randint(MOST_ADDRESS_MASK + 1, 63)
            granularity = rng.choice((0, Granularity.SELECTIVE))
        iova = place.iova + rng.choice((0, 0, 0, PAGE_SIZE, -PAGE_SIZE, rng.randrange(place.size)))
        self.steps.append(InvalidateIotlb(granularity, did, iova, order))

    def invalidate_context(self, device: int, granularity: int, did: int) -> None:
        """A context invalidation, often of the device itself, sometimes only through the function mask."""
        rng = self.rng
        bdf = DEVICES[device if rng.random() < 0.8 else 1 - device] ^ rng.choice((0, 0, 0, 1, 2, 4, 6, 7))
        self.steps.append(InvalidateContext(granularity, did, bdf, rng.choice((0, 0, 1, 2, 3))))

    def set_leaf(self, device: int, place: Place, frame: int, rights: int) -> None:
        """Map a place to one of its frames, by number, in the device's tables."""
        tables = TABLES[self.tables.owned[device]]
        self.steps.append(self.tables.leaf(tables, place, place.frames[frame], rights))

    def empty_caches(self) -> None:
        """Invalidate both caches wholly."""
        self.steps += [InvalidateContext(Granularity.GLOBAL), InvalidateIotlb(Granularity.GLOBAL)]

    def context_round(self, device: int, place: Place) -> None:
        """Use a place, change the device's context entry, invalidate it, and use the place again."""
        rng = self.rng
        did = self.tables.dids[device]
        if rng.random() < 0.7:
            self.dma(device, place)
        self.change_context(device)
        self.invalidate_context(device, rng.choice((1, 2, 3, 3, 3, 3)), did if rng.random() < 0.8 else did ^ 1)
        if rng.random() < 0.8:
            self.steps.append(InvalidateIotlb(rng.choice((Granularity.GLOBAL, Granularity.DOMAIN)), did))
        self.dma(device, place)

    def driver_action(self) -> None:
        """Another action of driver software: fault handling, masks, root table, translation, descriptors."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.5:
            self.steps.append(ClearFaults(rng.random() < 0.8, rng.random() < 0.8))
        elif kind < 0.6:
            self._masked = not self._masked
            self.steps.append(MaskEvents(self._masked))
        elif kind < 0.65:
            self.steps.append(SetRoot(rng.choice((ROOT, OTHER_ROOT))))
        elif kind < 0.68:
            self.steps += [SwitchTranslation(False), SwitchTranslation(True)]
        elif self.queued and kind < 0.78:
            self.steps.append(Wait(rng.getrandbits(32), rng.random() < 0.4))
        elif self.queued:
            self.invalid_descriptor()

    def invalid_descriptor(self) -> None:
        """An invalid descriptor, if the case uses the queue."""
        if self.queued:
            other = self.rng.choice(INVALID_TYPES), 0
            self.steps.append(
                Descriptor(*(other if self.rng.random() < 0.5 else self.rng.choice(RESERVED_DESCRIPTORS)))
            )
