"""Rounds that aim at one rule each: which cached entries an invalidation, a fault or a command leaves, and which not.

Each begins and ends with a use, so a stale entry that should be there, or should not, shows in the address reached.
"""

from collections.abc import Callable
from typing import Final

from hvfuzz.machine.vtd.invalidation_queue import Granularity
from hvfuzz.machine.vtd.legacy_mode import WIDTH_OF_LEVELS
from hvfuzz.references.vtd.case import ClearFaults, Dma, InvalidateContext, InvalidateIotlb, SetRoot, SwitchTranslation
from hvfuzz.references.vtd.cases.sequence_builder import SequenceBuilder
from hvfuzz.references.vtd.cases.sequence_tables import Place
from hvfuzz.references.vtd.memory_map import OTHER_ROOT, ROOT
from hvfuzz.references.vtd.qemu import DEVICES

_READ: Final = 1
_ALL: Final = 3
Round = Callable[[SequenceBuilder, int, Place], None]


def context_of_another_domain(sequence: SequenceBuilder, device: int, place: Place) -> None:
    """Move the device to the other's domain, and invalidate its context entry with the new domain id or the old one."""
    rng = sequence.rng
    sequence.dma(device, place)
    sequence.steps += sequence.tables.context(1 - device, as_device=device)
    did = sequence.tables.dids[rng.choice((device, 1 - device, 1 - device))]
    granularity = rng.choice((Granularity.DOMAIN, Granularity.SELECTIVE))
    sequence.steps.append(InvalidateContext(granularity, did, DEVICES[device]))
    if rng.random() < 0.7:  # Otherwise the IOTLB of QEMU answers, without the context entry.
        sequence.steps.append(InvalidateIotlb(Granularity.GLOBAL))
    sequence.dma(device, place)
    sequence.dma(1 - device, place)


def translations_of_another_domain(sequence: SequenceBuilder, device: int, place: Place) -> None:
    """Invalidate the translations of one device's domain, or some of them; those of the other are stale, too."""
    rng = sequence.rng
    for number in (device, 1 - device):
        sequence.dma(number, place)
        sequence.set_leaf(number, place, 1, _ALL)
    did = sequence.tables.dids[device]
    granularity = rng.choice((Granularity.DOMAIN, Granularity.SELECTIVE))
    sequence.steps.append(InvalidateIotlb(granularity, did, place.iova, 9 * (place.level - 1)))
    sequence.dma(1 - device, place)
    sequence.dma(device, place)


def neighbours(sequence: SequenceBuilder, device: int, place: Place) -> None:
    """Invalidate one page, or a few; translations of the pages beside it, or 256 pages away, stay."""
    places = sequence.tables.places
    for each in places:
        sequence.dma(device, each)
        sequence.set_leaf(device, each, 1, _ALL)
    order = sequence.rng.choice((0, 0, 1, 2, 8, 9))
    sequence.steps.append(InvalidateIotlb(Granularity.SELECTIVE, sequence.tables.dids[device], place.iova, order))
    for each in places:
        sequence.dma(device, each)


def global_command(sequence: SequenceBuilder, device: int, place: Place) -> None:
    """Set a root table, or switch translation off and on; both caches keep what they have."""
    rng = sequence.rng
    sequence.dma(device, place)
    if rng.random() < 0.5:
        sequence.set_leaf(device, place, 1, _ALL)
    if rng.random() < 0.5:
        sequence.change_context(device)
    if rng.random() < 0.3:
        sequence.steps += [SwitchTranslation(False), SwitchTranslation(True)]
    else:
        sequence.steps.append(SetRoot(rng.choice((ROOT, OTHER_ROOT))))
    sequence.dma(device, place)


def more_rights(sequence: SequenceBuilder, device: int, place: Place) -> None:
    """A request for a right that the cached translation lacks, while the tables grant it, or grant nothing any more."""
    rng = sequence.rng
    sequence.set_leaf(device, place, 0, _READ)
    if rng.random() < 0.8:
        sequence.empty_caches()
    sequence.dma(device, place, to_memory=False)
    sequence.set_leaf(device, place, rng.randrange(2), rng.choice((0, _READ, _ALL, _ALL)))
    sequence.dma(device, place, to_memory=True)
    sequence.dma(device, place, to_memory=False)


def lost_faults(sequence: SequenceBuilder, device: int, place: Place) -> None:
    """Faults of both devices, which set PFO; then a fault after software has cleared F, or PFO, or both."""
    rng = sequence.rng
    sequence.empty_caches()
    for number in (device, 1 - device):
        sequence.set_leaf(number, place, 0, 0)
        sequence.dma(number, place, to_memory=True)
    sequence.steps.append(ClearFaults(rng.random() < 0.7, rng.random() < 0.5))
    sequence.dma(device, place, to_memory=True)
    sequence.set_leaf(device, place, 0, _ALL)
    sequence.dma(device, place)


def beyond_pass_through(sequence: SequenceBuilder, device: int, place: Place) -> None:
    """Pass requests through, within the width of the context entry and beyond it."""
    rng = sequence.rng
    sequence.steps += sequence.tables.context(device, pass_through=True, fpd=rng.random() < 0.2)
    if rng.random() < 0.8:
        sequence.empty_caches()
    beyond = rng.randrange(WIDTH_OF_LEVELS[sequence.levels], 64)
    for iova in rng.sample((place.iova, place.iova | 1 << beyond), 2):
        sequence.steps.append(Dma(device, iova, 4, True, 0xF00))
    sequence.steps += sequence.tables.context(device)
    if rng.random() < 0.8:
        sequence.empty_caches()
    sequence.dma(device, place)


def invalid_descriptors(sequence: SequenceBuilder, device: int, place: Place) -> None:
    """Invalid descriptors one after the other; none of them invalidates anything."""
    sequence.dma(device, place)
    sequence.set_leaf(device, place, 1, _ALL)
    for _ in range(8):
        sequence.invalid_descriptor()
    sequence.dma(device, place)


STALE_ROUNDS: Final[tuple[Round, ...]] = (
    context_of_another_domain,
    translations_of_another_domain,
    neighbours,
    global_command,
    more_rights,
    lost_faults,
    beyond_pass_through,
    invalid_descriptors,
)
