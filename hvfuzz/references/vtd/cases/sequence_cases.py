"""Cases of many steps: devices use translations while software changes tables, with and without invalidation."""

import random
from typing import Final

from hvfuzz.references.vtd.case import Case
from hvfuzz.references.vtd.cases.sequence_builder import SequenceBuilder
from hvfuzz.references.vtd.cases.stale_rounds import STALE_ROUNDS
from hvfuzz.references.vtd.qemu import DEVICES

ROUNDS: Final = (1, 4)
"""Least and greatest number of rounds in a sequence."""


def sequence_case(rng: random.Random, width: int) -> Case:
    """Rounds of use, change, use, invalidate, use; with other steps in between."""
    sequence = SequenceBuilder(rng, width)
    tables = tuple(sequence.tables.initial())
    for _ in range(rng.randint(*ROUNDS)):
        device = rng.randrange(len(DEVICES))
        place = rng.choice(sequence.tables.places)
        kind = rng.random()
        if kind < 0.25:
            sequence.context_round(device, place)
            continue
        if kind < 0.5:
            rng.choice(STALE_ROUNDS)(sequence, device, place)
            sequence.driver_action()
            continue
        if rng.random() < 0.8:
            sequence.dma(device, place)
        sequence.change(device, place)
        if rng.random() < 0.4:
            sequence.driver_action()
        sequence.dma(device if rng.random() < 0.8 else 1 - device, place)
        for _ in range(rng.choice((1, 1, 2))):
            sequence.invalidate(device, place)
        sequence.dma(device, place)
        if rng.random() < 0.4:
            sequence.dma(rng.randrange(len(DEVICES)), rng.choice(sequence.tables.places))
    return Case("sequence", sequence.queued, tables, tuple(sequence.steps))
