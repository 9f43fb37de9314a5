"""Page tables of a sequence: pages that both devices can reach, context entries, and leaves to change later."""

import random
from typing import Final

from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE
from hvfuzz.machine.vtd.legacy_mode import ENTRY_SIZE, FPD, PRESENT, SL_PAGE_SIZE, TT_SHIFT, WIDTH_OF_LEVELS
from hvfuzz.references.vtd.case import Store
from hvfuzz.references.vtd.cases.request_builder import HOLE, LOWEST, RIGHTS
from hvfuzz.references.vtd.memory_map import (
    CONTEXTS,
    LARGE_PAGES,
    OTHER_CONTEXTS,
    OTHER_ROOT,
    PAGES,
    ROOT,
    SCRATCH,
    SCRATCH_TABLES,
    TABLES,
    slot,
)
from hvfuzz.references.vtd.qemu import DEVICES


class Place:
    """A page that devices use: its IOVA, the level of its leaf, and the frames that it may be mapped to (hpas)."""

    def __init__(self, iova: int, level: int, frames: tuple[int, ...]) -> None:
        self.iova: Final = iova
        self.level: Final = level
        self.frames: Final = frames

    @property
    def size(self) -> int:
        """Bytes that the leaf maps."""
        return PAGE_SIZE << 9 * (self.level - 1)


class SequenceTables:
    """The tables of one sequence: what they hold at first, and the stores that change them."""

    def __init__(self, rng: random.Random, levels: int) -> None:
        self.rng: Final = rng
        self.levels: Final = levels
        self.places: Final = self._places()
        self.dids: Final = rng.sample(range(1, 1 << 16), len(DEVICES))
        """Domain id of each device."""
        self.owned: Final = [0, 1]
        """Index in TABLES of the tables that each device uses."""
        if rng.random() < 0.15:
            self.dids[1] = self.dids[0]
            self.owned[1] = rng.choice((0, 0, 1))

    def _places(self) -> tuple[Place, ...]:
        """Three neighbouring pages of 4 KiB and one that is 256 pages away, one of 2 MiB, and one of 1 GiB."""
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
            Place(base + (index << PAGE_SHIFT), 1, PAGES[2 * number : 2 * number + 2])
            for number, index in enumerate((first, first + 1, first + 2, first ^ 256))
        )
        return (*small, Place(base + (1 << 21), 2, LARGE_PAGES[2]), Place((base >> 30) + 1 << 30, 3, LARGE_PAGES[3]))

    def initial(self) -> list[Store]:
        """Tables that map all places with all rights, and the scratch page to itself."""
        stores = [Store(ROOT, CONTEXTS | PRESENT), Store(OTHER_ROOT, OTHER_CONTEXTS | PRESENT)]
        for device in range(len(DEVICES)):
            stores += self.context(device, CONTEXTS, pass_through=self.rng.random() < 0.03)
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
        pass_through: bool = False,
        fpd: bool = False,
    ) -> list[Store]:
        """The context entry of device `as_device` (None: `owner` itself) with the domain and tables of `owner`."""
        hpa = table + DEVICES[owner if as_device is None else as_device] * ENTRY_SIZE
        low = TABLES[self.owned[owner]][self.levels - 1] | PRESENT | (FPD if fpd else 0)
        return [
            Store(hpa, low | (2 << TT_SHIFT if pass_through else 0)),
            Store(hpa + 8, self.dids[owner] << 8 | self.levels - 2),
        ]

    def leaf(self, tables: tuple[int, ...], place: Place, frame: int, rights: int) -> Store:
        """The leaf entry that maps a place to `frame`."""
        return Store(slot(tables, place.iova, place.level), frame | rights | (SL_PAGE_SIZE if place.level > 1 else 0))
