"""What may be wrong with the tables of a probe, and with the address that the device asks for."""

from collections.abc import Callable
from typing import Final

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SIZE
from hvfuzz.machine.vtd.legacy_mode import FPD, INTERRUPT_RANGE, PRESENT, SL_PAGE_SIZE, TT_SHIFT, WIDTH_OF_LEVELS
from hvfuzz.references.vtd.cases.probe import RIGHTS, Probe
from hvfuzz.references.vtd.cases.steps import LARGE_PAGES, NOWHERE, PAGES, ROOT, slot


def plain(probe: Probe) -> None:
    """Nothing."""


def entry_bit(probe: Probe) -> None:
    """A bit of an entry."""
    probe.flip(probe.entry(probe.any_level()), probe.rng.randrange(64))


def entry_bits(probe: Probe) -> None:
    """Two bits of an entry."""
    probe.flip(probe.entry(probe.any_level()), *probe.rng.sample(range(64), 2))


def address_bits(probe: Probe) -> None:
    """Around the width, where address bits end and reserved ones start, or below a superpage's frame."""
    low = 12 + 9 * (probe.leaf - 1)
    bit = probe.rng.choice((*range(probe.width - 3, 54), 62, 11, 12, low - 1, low))
    probe.flip(probe.entry(probe.any_level()), bit)


def rights(probe: Probe) -> None:
    """Any pair at every level."""
    for level in range(probe.leaf, probe.levels + 1):
        probe.words[probe.entry(level)] &= ~RIGHTS
        probe.words[probe.entry(level)] |= probe.rng.choice((0, 1, 2, 3, 3, 3))


def one_right(probe: Probe) -> None:
    """Any pair at one level, perhaps with a reserved bit."""
    entry = probe.entry(probe.any_level())
    probe.words[entry] = probe.words[entry] & ~RIGHTS | probe.rng.randrange(4)
    if probe.rng.random() < 0.3:
        probe.flip(entry, probe.rng.choice((11, 62, 51)))


def page_size(probe: Probe) -> None:
    """PS at a level where it does not belong."""
    probe.flip(probe.entry(probe.any_level()), 7)


def root_bit(probe: Probe) -> None:
    """A bit of the root entry."""
    probe.flip(ROOT + probe.rng.choice((0, 0, 8)), probe.rng.randrange(64))


def context_bit(probe: Probe) -> None:
    """A bit of the context entry."""
    probe.flip(probe.context + probe.rng.choice((0, 8)), probe.rng.randrange(64))


def context_fields(probe: Probe) -> None:
    """Any width, type and FPD."""
    rng = probe.rng
    probe.words[probe.context] |= rng.randrange(4) << TT_SHIFT | (FPD if rng.random() < 0.3 else 0)
    if rng.random() < 0.5:
        probe.words[probe.context + 8] = probe.words[probe.context + 8] & ~7 | rng.randrange(8)


def absent(probe: Probe) -> None:
    """P of an entry is clear, whatever else is in it."""
    hpa = probe.rng.choice((ROOT, probe.context, probe.context))
    probe.words[hpa] &= ~PRESENT
    probe.flip(hpa, probe.rng.randrange(1, 64))


def nowhere(probe: Probe) -> None:
    """A pointer to where no memory is."""
    rng = probe.rng
    hpa = rng.choice((ROOT, probe.context, probe.entry(probe.any_level())))
    keep = probe.words[hpa] & PAGE_MASK
    probe.words[hpa] = NOWHERE | keep


def interrupt_target(probe: Probe) -> None:
    """A leaf that leads to the interrupt range, to its neighbours, or to a superpage that overlaps it."""
    rng = probe.rng
    covered = (1 << 12 + 9 * (probe.leaf - 1)) - 1
    page = rng.choice((0xFEE00, 0xFEE00 + rng.randrange(256), 0xFEEFF, 0xFEDFF, 0xFEF00)) << 12
    entry = probe.entry(probe.leaf)
    probe.words[entry] = page & ~covered | probe.words[entry] & PAGE_MASK
    if probe.leaf > 1:
        # Within the superpage the request goes to the interrupts themselves or just beside them.
        offset = page & covered & ~PAGE_MASK
        move(probe, probe.iova & ~covered | offset | probe.iova & PAGE_MASK)


def to_interrupts(probe: Probe) -> None:
    """An IOVA in or beside the interrupt range; QEMU lets no superpage end where that starts."""
    first = INTERRUPT_RANGE << 20
    move(probe, probe.rng.choice((first - 4, first, first + probe.rng.randrange(1 << 20), first + (1 << 20))) & ~3)
    probe.size = 4 if probe.leaf > 1 else probe.rng.choice((4, 8))


def border(probe: Probe) -> None:
    """An IOVA at the end of the width, or with one bit beyond it."""
    rng = probe.rng
    width = WIDTH_OF_LEVELS[probe.levels]
    last = (1 << width) - rng.randrange(1, PAGE_SIZE)
    if rng.random() < 0.3:
        move(probe, last)
    elif rng.random() < 0.3:
        move(probe, 0)
    else:
        probe.iova |= 1 << (width if rng.random() < 0.4 else rng.randrange(width, 64))
    if rng.random() < 0.2:
        probe.words[probe.context] |= 2 << TT_SHIFT
    probe.size = rng.choice((1, 4))


def crossing(probe: Probe) -> None:
    """A DMA over the end of a page, the next of which is what it likes."""
    rng = probe.rng
    covered = (1 << 12 + 9 * (probe.leaf - 1)) - 1
    probe.size = rng.choice((2, 4, 8, 16, 64, 1500))
    move(probe, (probe.iova & ~PAGE_MASK) + PAGE_SIZE - rng.randint(1, probe.size - 1))
    if rng.random() < 0.5 and probe.leaf > 1:
        move(probe, (probe.iova | covered) - rng.randrange(probe.size - 1))
    following = slot(probe.tables, probe.iova + PAGE_SIZE, probe.leaf)
    if following & ~PAGE_MASK == probe.entry(probe.leaf) & ~PAGE_MASK and following != probe.entry(probe.leaf):
        page = rng.choice(PAGES) if probe.leaf == 1 else rng.choice(LARGE_PAGES[probe.leaf]) | SL_PAGE_SIZE
        probe.words[following] = page | rng.choice((0, 1, 2, 3, 3, 3))
        if rng.random() < 0.2:
            probe.flip(following, rng.randrange(64))
    if rng.random() < 0.3:
        probe.words[probe.entry(probe.leaf)] &= ~rng.randrange(1, 4)


def move(probe: Probe, iova: int) -> None:
    """Have the same tables for another address."""
    values = [probe.words.pop(probe.entry(level), 0) for level in range(probe.leaf, probe.levels + 1)]
    probe.iova = iova
    for level, value in zip(range(probe.leaf, probe.levels + 1), values, strict=True):
        probe.words[probe.entry(level)] = value


BENDS: Final[dict[Callable[[Probe], None], int]] = {
    plain: 6,
    entry_bit: 24,
    entry_bits: 8,
    address_bits: 12,
    rights: 12,
    one_right: 10,
    page_size: 2,
    root_bit: 8,
    context_bit: 14,
    context_fields: 8,
    absent: 4,
    nowhere: 3,
    interrupt_target: 5,
    to_interrupts: 3,
    border: 8,
    crossing: 12,
}
"""What may be wrong, and how often it is."""
