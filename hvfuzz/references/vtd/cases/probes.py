"""Cases of one request: tables that are right but for one thing, and a DMA through them.

After a read the device's buffer is written to a scratch page by way of tables that are right, to see what arrived.
"""

import random
from typing import Final

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SIZE
from hvfuzz.machine.vtd.invalidation_queue import Granularity
from hvfuzz.machine.vtd.legacy_mode import FPD, PRESENT
from hvfuzz.references.vtd.cases.probe import Probe
from hvfuzz.references.vtd.cases.probe_faults import BENDS
from hvfuzz.references.vtd.cases.single_faults import Single
from hvfuzz.references.vtd.cases.steps import (
    CONTEXTS,
    ROOT,
    SCRATCH,
    SCRATCH_TABLES,
    Case,
    Dma,
    InvalidateContext,
    Step,
    Store,
)

SCRATCH_DID: Final = 0x77
WRITTEN_FROM: Final = 2048
"""Devices read into their buffer below this offset, and write what is from there on."""


def single_case(rng: random.Random, width: int, fault: Single) -> Case:
    """A probe with that fault and no other."""
    probe = Probe(rng, width, fault.levels, fault.leaf)
    if fault.to_memory is not None:
        probe.to_memory = fault.to_memory
    fault.apply(probe)
    tables = tuple(Store(hpa, value) for hpa, value in probe.words.items())
    return Case(fault.name, rng.random() < 0.3, tables, tuple(requests(probe)))


def probe_case(rng: random.Random, width: int) -> Case:
    """A random probe."""
    probe = Probe(rng, width)
    bend = rng.choices(list(BENDS), list(BENDS.values()))[0]
    bend(probe)
    if rng.random() < 0.1:
        probe.words[probe.context] |= FPD
    tables = tuple(Store(hpa, value) for hpa, value in probe.words.items())
    return Case(bend.__name__, rng.random() < 0.3, tables, tuple(requests(probe)))


def requests(probe: Probe) -> list[Step]:
    """The DMA, and what shows what it read."""
    rng = probe.rng
    iova = min(probe.iova, 2**64 - probe.size)
    covered = (1 << 12 + 9 * (probe.leaf - 1)) - 1
    watch = (probe.target | iova & covered & ~PAGE_MASK,)
    if probe.to_memory:
        return [Dma(probe.device, iova, probe.size, True, rng.randrange(WRITTEN_FROM, PAGE_SIZE - probe.size), watch)]
    buffer = rng.randrange(WRITTEN_FROM - probe.size)
    good = {
        ROOT: CONTEXTS | PRESENT,
        ROOT + 8: 0,
        probe.context: SCRATCH_TABLES[probe.levels - 1] | PRESENT,
        probe.context + 8: SCRATCH_DID << 8 | probe.levels - 2,
    }
    return [
        Dma(probe.device, iova, probe.size, False, buffer, watch),
        *(Store(hpa, value) for hpa, value in good.items() if probe.words.get(hpa, 0) != value),
        InvalidateContext(Granularity.GLOBAL),
        Dma(probe.device, SCRATCH, probe.size, True, buffer),
    ]
