"""Cases of many steps: devices use translations while software changes the tables, with and without invalidation."""

import random
from typing import Final

from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE
from hvfuzz.machine.vtd.invalidation_queue import MOST_ADDRESS_MASK, Granularity
from hvfuzz.machine.vtd.legacy_mode import ENTRY_SIZE, FPD, PRESENT, SL_PAGE_SIZE, TT_SHIFT, WIDTH_OF_LEVELS
from hvfuzz.references.vtd.case import (
    CONTEXTS,
    LARGE_PAGES,
    OTHER_CONTEXTS,
    OTHER_ROOT,
    PAGES,
    ROOT,
    SCRATCH,
    SCRATCH_TABLES,
    TABLES,
    Case,
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
    slot,
)
from hvfuzz.references.vtd.cases.request_builder import HOLE, LOWEST, RIGHTS
from hvfuzz.references.vtd.cases.request_cases import WRITTEN_FROM
from hvfuzz.references.vtd.qemu import DEVICES

ROUNDS: Final = (1, 4)
SMALL_PAGES: Final = 3
"""Neighbouring pages of 4 KiB that a sequence uses, besides one of 2 MiB and one of 1 GiB."""
TYPES_TO_REFUSE: Final = (0, 3, 4, 6, 7, 8, 9, 11, 15)
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
"""Reserved bits, granularities and address masks."""


class Place:
    """A page that devices use: its IOVA, the level of its leaf, and the frames that it may be mapped to."""

    def __init__(self, iova: int, level: int, frames: tuple[int, ...]) -> None:
        self.iova: Final = iova
        self.level: Final = level
        self.frames: Final = frames

    @property
    def size(self) -> int:
        """Bytes."""
        return PAGE_SIZE << 9 * (self.level - 1)


class SequenceBuilder:
    """A sequence in the making."""

    def __init__(self, rng: random.Random, width: int) -> None:
        self.rng: Final = rng
        self.levels: Final = 3 if width == 39 or rng.random() < 0.2 else 4
        self.queued: Final = rng.random() < 0.5
        self.places: Final = self._places()
        self.dids: Final = rng.sample(range(1, 1 << 16), len(DEVICES))
        self.owned: Final = [0, 1]
        """Which tables each device uses."""
        if rng.random() < 0.15:
            self.dids[1] = self.dids[0]
            self.owned[1] = rng.choice((0, 0, 1))
        self.steps: list[Step] = []
        self._masked = True

    def _places(self) -> tuple[Place, ...]:
        rng = self.rng
        while True:
            base = rng.randrange(1, 1 << WIDTH_OF_LEVELS[self.levels] - 30) << 30 | rng.randrange(256) << 21
            beyond = base + (2 << 30)
            if base >> 39 == beyond >> 39 and base >> 30 & 511 and beyond < 1 << WIDTH_OF_LEVELS[self.levels]:
                top = base >> 39 if self.levels == 4 else base >> 30
                if top and base >= LOWEST and (base >= HOLE[1] or beyond < HOLE[0]):
                    break
        first = rng.randrange(500)
        small = (
            Place(base + (first + number << PAGE_SHIFT), 1, PAGES[2 * number : 2 * number + 2])
            for number in range(SMALL_PAGES)
        )
        return (*small, Place(base + (1 << 21), 2, LARGE_PAGES[2]), Place((base >> 30) + 1 << 30, 3, LARGE_PAGES[3]))

    # Tables.

    def initial(self) -> list[Store]:
        """Everything mapped, with all rights, and the scratch page at its own address."""
        stores = [Store(ROOT, CONTEXTS | PRESENT), Store(OTHER_ROOT, OTHER_CONTEXTS | PRESENT)]
        for device in range(len(DEVICES)):
            stores += self.context(device, CONTEXTS, passing=self.rng.random() < 0.03)
            stores += self.context(1 - device, OTHER_CONTEXTS, as_device=device)
        for tables in TABLES:
            stores.append(Store(slot(tables, SCRATCH, self.levels), SCRATCH_TABLES[self.levels - 2] | RIGHTS))
            for place in self.places:
                for level in range(self.levels, place.level, -1):
                    stores.append(Store(slot(tables, place.iova, level), tables[level - 2] | RIGHTS))
                stores.append(self.leaf(tables, place, place.frames[0], RIGHTS))
        return list({store.hpa: store for store in stores}.values())

    def context(
        self,
        owner: int,
        table: int = CONTEXTS,
        *,
        as_device: int | None = None,
        passing: bool = False,
        fpd: bool = False,
    ) -> list[Store]:
        """The context entry that gives a device the domain of `owner`."""
        hpa = table + DEVICES[owner if as_device is None else as_device] * ENTRY_SIZE
        low = TABLES[self.owned[owner]][self.levels - 1] | PRESENT | (FPD if fpd else 0)
        return [
            Store(hpa, low | (2 << TT_SHIFT if passing else 0)),
            Store(hpa + 8, self.dids[owner] << 8 | self.levels - 2),
        ]

    def leaf(self, tables: tuple[int, ...], place: Place, frame: int, rights: int) -> Store:
        """The leaf of a place."""
        return Store(slot(tables, place.iova, place.level), frame | rights | (SL_PAGE_SIZE if place.level > 1 else 0))

    # Steps.

    def dma(self, device: int, place: Place, *, to_memory: bool | None = None) -> None:
        """A request to a place, and if it reads, one that shows what was read."""
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
        """Software changes what the device's request depends on."""
        rng = self.rng
        tables = TABLES[self.owned[device]]
        kind = rng.random()
        if kind < 0.65:
            self.steps.append(self.leaf(tables, place, rng.choice(place.frames), rng.choice((0, 1, 2, 3, 3, 3))))
        elif kind < 0.75 and place.level < self.levels:
            level = rng.randint(place.level + 1, self.levels)
            self.steps.append(Store(slot(tables, place.iova, level), tables[level - 2] | rng.randrange(4)))
        else:
            self.change_context(device)

    def change_context(self, device: int) -> None:
        """The device gets another context entry, or none, or its own again."""
        rng = self.rng
        kind = rng.randrange(8)
        if kind < 2:
            self.steps.append(Store(CONTEXTS + DEVICES[device] * ENTRY_SIZE, 0))
        elif kind < 4:
            self.steps += self.context(1 - device, as_device=device)
        else:
            self.steps += self.context(device, fpd=kind == 4, passing=kind == 5)

    def invalidate(self, device: int, place: Place) -> None:
        """An invalidation of any kind, which may or may not concern the device and the place."""
        rng = self.rng
        granularity: int = rng.choice((Granularity.GLOBAL, Granularity.DOMAIN, *[Granularity.SELECTIVE] * 4))
        did = self.dids[device] if rng.random() < 0.8 else rng.choice((self.dids[1 - device], rng.randrange(1 << 16)))
        if rng.random() < 0.35:
            if not self.queued and rng.random() < 0.05:
                granularity = 0
            self.invalidate_context(device, granularity, did)
            return
        order = rng.choice((0, 0, 1, 2, 3, 9, 9 * (place.level - 1), rng.randint(0, MOST_ADDRESS_MASK)))
        if not self.queued and rng.random() < 0.05:  # the register says that it did nothing
            order = rng.randint(MOST_ADDRESS_MASK + 1, 63)
            granularity = rng.choice((0, Granularity.SELECTIVE))
        iova = place.iova + rng.choice((0, 0, 0, PAGE_SIZE, -PAGE_SIZE, rng.randrange(place.size)))
        self.steps.append(InvalidateIotlb(granularity, did, iova, order))

    def invalidate_context(self, device: int, granularity: int, did: int) -> None:
        """A context invalidation, often of the device itself, perhaps by way of the function mask."""
        rng = self.rng
        bdf = DEVICES[device if rng.random() < 0.8 else 1 - device] ^ rng.choice((0, 0, 0, 1, 2, 4, 6, 7))
        self.steps.append(InvalidateContext(granularity, did, bdf, rng.choice((0, 0, 1, 2, 3))))

    def context_round(self, device: int, place: Place) -> None:
        """The device's context entry changes, and what it gave before is invalidated, or not."""
        rng = self.rng
        did = self.dids[device]
        if rng.random() < 0.7:
            self.dma(device, place)
        self.change_context(device)
        self.invalidate_context(device, rng.choice((1, 2, 3, 3, 3, 3)), did if rng.random() < 0.8 else did ^ 1)
        if rng.random() < 0.8:
            self.steps.append(InvalidateIotlb(rng.choice((Granularity.GLOBAL, Granularity.DOMAIN)), did))
        self.dma(device, place)

    def extra(self) -> None:
        """Something else that software does."""
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
        elif self.queued and kind < 0.85:
            self.steps.append(Wait(rng.getrandbits(32), rng.random() < 0.4))
        elif self.queued:
            other = rng.choice(TYPES_TO_REFUSE), 0
            self.steps.append(Descriptor(*(other if rng.random() < 0.4 else rng.choice(RESERVED_DESCRIPTORS))))


def sequence_case(rng: random.Random, width: int) -> Case:
    """Rounds of: use, change, use, invalidate, use; with more of each in between."""
    sequence = SequenceBuilder(rng, width)
    tables = tuple(sequence.initial())
    for _ in range(rng.randint(*ROUNDS)):
        device = rng.randrange(len(DEVICES))
        place = rng.choice(sequence.places)
        if rng.random() < 0.3:
            sequence.context_round(device, place)
            continue
        if rng.random() < 0.8:
            sequence.dma(device, place)
        sequence.change(device, place)
        if rng.random() < 0.4:
            sequence.extra()
        sequence.dma(device if rng.random() < 0.8 else 1 - device, place)
        for _ in range(rng.choice((1, 1, 2))):
            sequence.invalidate(device, place)
        sequence.dma(device, place)
        if rng.random() < 0.4:
            sequence.dma(rng.randrange(len(DEVICES)), rng.choice(sequence.places))
    return Case("sequence", sequence.queued, tables, tuple(sequence.steps))
