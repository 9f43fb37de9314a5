"""Random faults of a request: in its tables, or in the address that the device requests."""

from collections.abc import Callable
from typing import Final

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SIZE
from hvfuzz.machine.vtd.legacy_mode import FPD, INTERRUPT_RANGE, PRESENT, SL_PAGE_SIZE, TT_SHIFT, WIDTH_OF_LEVELS
from hvfuzz.references.vtd.cases.request_builder import RIGHTS, RequestBuilder
from hvfuzz.references.vtd.memory_map import LARGE_PAGES, NOWHERE, PAGES, ROOT, slot


def no_fault(builder: RequestBuilder) -> None:
    """No fault."""


def entry_bit(builder: RequestBuilder) -> None:
    """Flip a bit of a second-level entry."""
    builder.flip(builder.entry(builder.any_level()), builder.rng.randrange(64))


def entry_bits(builder: RequestBuilder) -> None:
    """Flip two bits of a second-level entry."""
    builder.flip(builder.entry(builder.any_level()), *builder.rng.sample(range(64), 2))


def address_boundary_bit(builder: RequestBuilder) -> None:
    """Flip a bit near the host address width, where reserved bits begin, or below the address of a superpage."""
    low = 12 + 9 * (builder.leaf - 1)
    bit = builder.rng.choice((*range(builder.width - 3, 54), 62, 11, 12, low - 1, low))
    builder.flip(builder.entry(builder.any_level()), bit)


def rights_at_all_levels(builder: RequestBuilder) -> None:
    """Set R and W at random at every level."""
    for level in range(builder.leaf, builder.levels + 1):
        builder.words[builder.entry(level)] &= ~RIGHTS
        builder.words[builder.entry(level)] |= builder.rng.choice((0, 1, 2, 3, 3, 3))


def rights_at_one_level(builder: RequestBuilder) -> None:
    """Set R and W at random at one level, and perhaps a reserved bit."""
    entry = builder.entry(builder.any_level())
    builder.words[entry] = builder.words[entry] & ~RIGHTS | builder.rng.randrange(4)
    if builder.rng.random() < 0.3:
        builder.flip(entry, builder.rng.choice((11, 62, 51)))


def page_size_bit(builder: RequestBuilder) -> None:
    """Flip PS of an entry."""
    builder.flip(builder.entry(builder.any_level()), 7)


def root_bit(builder: RequestBuilder) -> None:
    """Flip a bit of the root entry."""
    builder.flip(ROOT + builder.rng.choice((0, 0, 8)), builder.rng.randrange(64))


def context_bit(builder: RequestBuilder) -> None:
    """Flip a bit of the context entry."""
    builder.flip(builder.context + builder.rng.choice((0, 8)), builder.rng.randrange(64))


def context_fields(builder: RequestBuilder) -> None:
    """Set the translation type, FPD and perhaps the address width of the context entry at random."""
    rng = builder.rng
    builder.words[builder.context] |= rng.randrange(4) << TT_SHIFT | (FPD if rng.random() < 0.3 else 0)
    if rng.random() < 0.5:
        builder.words[builder.context + 8] = builder.words[builder.context + 8] & ~7 | rng.randrange(8)


def hidden_fault(builder: RequestBuilder) -> None:
    """Set FPD, and flip a bit of the context entry or of a second-level entry."""
    builder.words[builder.context] |= FPD
    if builder.rng.random() < 0.7:
        builder.flip(builder.context + builder.rng.choice((0, 8)), builder.rng.choice((0, *range(2, 64))))
    else:
        entry_bit(builder)


def not_present(builder: RequestBuilder) -> None:
    """Clear P of the root or context entry, and flip another bit of it."""
    hpa = builder.rng.choice((ROOT, builder.context, builder.context))
    builder.words[hpa] &= ~PRESENT
    builder.flip(hpa, builder.rng.randrange(1, 64))


def unbacked_pointer(builder: RequestBuilder) -> None:
    """Make an entry point to an address without memory."""
    rng = builder.rng
    hpa = rng.choice((ROOT, builder.context, builder.entry(builder.any_level())))
    keep = builder.words[hpa] & PAGE_MASK
    builder.words[hpa] = NOWHERE | keep


def interrupt_target(builder: RequestBuilder) -> None:
    """Make the leaf map to the interrupt range, next to it, or to a superpage that overlaps it."""
    rng = builder.rng
    covered = builder.offset_mask
    page = rng.choice((0xFEE00, 0xFEE00 + rng.randrange(256), 0xFEEFF, 0xFEDFF, 0xFEF00)) << 12
    entry = builder.entry(builder.leaf)
    builder.words[entry] = page & ~covered | builder.words[entry] & PAGE_MASK
    if builder.leaf > 1:
        # Within the superpage, aim the request at the interrupt range or just beside it.
        offset = page & covered & ~PAGE_MASK
        move_to(builder, builder.iova & ~covered | offset | builder.iova & PAGE_MASK)


def interrupt_address(builder: RequestBuilder) -> None:
    """Request an IOVA in or next to the interrupt range.

    No DMA may run into the range within a superpage (see the quirk interrupt-window), so these are short.
    """
    first = INTERRUPT_RANGE << 20
    move_to(
        builder, builder.rng.choice((first - 4, first, first + builder.rng.randrange(1 << 20), first + (1 << 20))) & ~3
    )
    builder.size = 4 if builder.leaf > 1 else builder.rng.choice((4, 8))


def address_width_limit(builder: RequestBuilder) -> None:
    """Request an IOVA at the end of the address width, at 0, or with one bit beyond the width."""
    rng = builder.rng
    width = WIDTH_OF_LEVELS[builder.levels]
    last = (1 << width) - rng.randrange(1, PAGE_SIZE)
    if rng.random() < 0.3:
        move_to(builder, last)
    elif rng.random() < 0.3:
        move_to(builder, 0)
    else:
        builder.iova |= 1 << (width if rng.random() < 0.4 else rng.randrange(width, 64))
    if rng.random() < 0.2:
        builder.words[builder.context] |= 2 << TT_SHIFT
    builder.size = rng.choice((1, 4))


def page_crossing(builder: RequestBuilder) -> None:
    """Request a DMA across the end of a page, and map the next page at random."""
    rng = builder.rng
    covered = builder.offset_mask
    builder.size = rng.choice((2, 4, 8, 16, 64, 1500))
    move_to(builder, (builder.iova & ~PAGE_MASK) + PAGE_SIZE - rng.randint(1, builder.size - 1))
    if rng.random() < 0.5 and builder.leaf > 1:
        move_to(builder, (builder.iova | covered) - rng.randrange(builder.size - 1))
    following = slot(builder.tables, builder.iova + PAGE_SIZE, builder.leaf)
    if following & ~PAGE_MASK == builder.entry(builder.leaf) & ~PAGE_MASK and following != builder.entry(builder.leaf):
        page = rng.choice(PAGES) if builder.leaf == 1 else rng.choice(LARGE_PAGES[builder.leaf]) | SL_PAGE_SIZE
        builder.words[following] = page | rng.choice((0, 1, 2, 3, 3, 3))
        if rng.random() < 0.2:
            builder.flip(following, rng.randrange(64))
    if rng.random() < 0.3:
        builder.words[builder.entry(builder.leaf)] &= ~rng.randrange(1, 4)


def move_to(builder: RequestBuilder, iova: int) -> None:
    """Change the IOVA, and move the table entries so that they translate it."""
    values = [builder.words.pop(builder.entry(level), 0) for level in range(builder.leaf, builder.levels + 1)]
    builder.iova = iova
    for level, value in zip(range(builder.leaf, builder.levels + 1), values, strict=True):
        builder.words[builder.entry(level)] = value


FAULT_WEIGHTS: Final[dict[Callable[[RequestBuilder], None], int]] = {
    no_fault: 6,
    entry_bit: 24,
    entry_bits: 8,
    address_boundary_bit: 12,
    rights_at_all_levels: 12,
    rights_at_one_level: 10,
    page_size_bit: 2,
    root_bit: 8,
    context_bit: 14,
    context_fields: 8,
    hidden_fault: 6,
    not_present: 4,
    unbacked_pointer: 3,
    interrupt_target: 5,
    interrupt_address: 3,
    address_width_limit: 8,
    page_crossing: 12,
}
"""{fault: relative frequency}."""
