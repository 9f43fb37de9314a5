"""Cases of one request: tables with one fault, and a DMA through them.

After a DMA that reads, the device writes its buffer to a scratch page through correct tables, which shows what it read.
"""

import random
from typing import Final

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SIZE
from hvfuzz.machine.vtd.invalidation_queue import Granularity
from hvfuzz.machine.vtd.legacy_mode import FPD, PRESENT
from hvfuzz.references.vtd.case import Case, Dma, InvalidateContext, Step, Store
from hvfuzz.references.vtd.cases.random_faults import FAULT_WEIGHTS
from hvfuzz.references.vtd.cases.request_builder import RequestBuilder
from hvfuzz.references.vtd.cases.single_faults import SingleFault
from hvfuzz.references.vtd.memory_map import CONTEXTS, ROOT, SCRATCH, SCRATCH_TABLES

SCRATCH_DID: Final = 0x77
WRITTEN_FROM: Final = 2048
"""Devices read into their buffer below this offset, and write from the part above it."""


def single_fault_case(rng: random.Random, width: int, fault: SingleFault) -> Case:
    """A request with the fault `fault` and no other."""
    builder = RequestBuilder(rng, width, fault.levels, fault.leaf)
    if fault.to_memory is not None:
        builder.to_memory = fault.to_memory
    fault.apply(builder)
    tables = tuple(Store(hpa, value) for hpa, value in builder.words.items())
    return Case(fault.name, rng.random() < 0.3, tables, tuple(requests(builder)))


def random_request_case(rng: random.Random, width: int) -> Case:
    """A random request with a random fault, named after the fault."""
    builder = RequestBuilder(rng, width)
    fault = rng.choices(list(FAULT_WEIGHTS), list(FAULT_WEIGHTS.values()))[0]
    fault(builder)
    if rng.random() < 0.1:
        builder.words[builder.context] |= FPD
    tables = tuple(Store(hpa, value) for hpa, value in builder.words.items())
    return Case(fault.__name__, rng.random() < 0.3, tables, tuple(requests(builder)))


def requests(builder: RequestBuilder) -> list[Step]:
    """The DMA, and if it reads, a second DMA that writes the data to the scratch page."""
    rng = builder.rng
    iova = min(builder.iova, 2**64 - builder.size)
    watch = (builder.target | iova & builder.offset_mask & ~PAGE_MASK,)
    if builder.to_memory:
        return [
            Dma(builder.device, iova, builder.size, True, rng.randrange(WRITTEN_FROM, PAGE_SIZE - builder.size), watch)
        ]
    buffer = rng.randrange(WRITTEN_FROM - builder.size)
    good = {
        ROOT: CONTEXTS | PRESENT,
        ROOT + 8: 0,
        builder.context: SCRATCH_TABLES[builder.levels - 1] | PRESENT,
        builder.context + 8: SCRATCH_DID << 8 | builder.levels - 2,
    }
    return [
        Dma(builder.device, iova, builder.size, False, buffer, watch),
        *(Store(hpa, value) for hpa, value in good.items() if builder.words.get(hpa, 0) != value),
        InvalidateContext(Granularity.GLOBAL),
        Dma(builder.device, SCRATCH, builder.size, True, buffer),
    ]
