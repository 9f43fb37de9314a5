"""The limits of the ABI, scaled down from those of real hypervisors so that short programs reach them."""

from typing import NamedTuple

# Tables of a domain.
GRANTS = 64
HANDLES = 64
PORTS = 128
PORTS_PER_BUCKET = 32
BUCKETS = PORTS // PORTS_PER_BUCKET
POOL = 16
"""Table pages in a guest's paging pool at boot."""

# Most elements of one call.
BATCH = 16
MULTICALL = 16
EXCHANGE = 64
POLL = 16
CONSOLE = 256
RANGE = 512
"""Pages of one `memory.decrease` or `memory.protect`: a whole large page."""
POPULATE = 64
"""Order-0 pages of one `memory.populate`."""
POPULATE_LARGE = 2
"""Order-9 blocks of one `memory.populate`."""
UNMAP = 64
DMA_PAGES = 64
DMA_LENGTH = 8192
STRING_BURST = 64
"""Elements that INS or OUTS moves in one exit."""

# Addresses.
MAX_GFN = 0x800
"""First guest frame number beyond RAM (8 MiB of guest physical space)."""
IOVA_LIMIT = 1 << 39
"""First address beyond the device addresses, which three-level second-stage tables translate."""
IOVA_HOLE = range(0xFEE0_0000, 0xFEF0_0000)
"""Device addresses of interrupt messages, which the IOMMU does not translate (VT-d spec 3.13)."""
LARGE_ORDER = 9

# Structs.
HEADER_SIZE = 8
STRUCT_MAX = 256
"""Most bytes of an argument struct, header included."""

# Preemption and time.
UNMAP_BURST = 8
"""Mappings that `grant.unmap` releases between two preemption points."""
TIME_SLICE = 16_384
"""Virtual cycles by which `sched.yield` advances the clock (real slices are a thousand times as long)."""
CLOCK_GRAIN = 4096
"""A counted read of the clock is rounded down to this many cycles."""
CLOCK_TICK = TIME_SLICE
"""Everything else that a guest can tell time by changes only at multiples of this many cycles."""
CLOCK_WINDOW = 65536
"""Virtual cycles."""
CLOCK_VALUES = 8
"""Values of the clock that a domain may learn in one window."""
CLOCK_READS = CLOCK_VALUES - CLOCK_WINDOW // CLOCK_TICK
"""Reads of the clock that a domain may make in one window: the ticks are the other values."""

SELF = 0x7FF0
"""The caller, in every domain field."""


class Limit(NamedTuple):
    """One row of `discovery.limits`. `value` is None if the answer depends on the domain's state."""

    what: int
    name: str
    value: int | None
    meaning: str


LIMITS = (
    Limit(0, "GRANTS", GRANTS, "grant entries of a domain"),
    Limit(1, "HANDLES", HANDLES, "grant mappings of a domain"),
    Limit(2, "PORTS", PORTS, f"event ports of a domain, in buckets of {PORTS_PER_BUCKET}"),
    Limit(3, "BATCH", BATCH, "copies of one `device.dma_batch`"),
    Limit(4, "MULTICALL", MULTICALL, "entries of one `multicall`"),
    Limit(5, "EXCHANGE", EXCHANGE, "pages of one `memory.exchange`"),
    Limit(6, "POLL", POLL, "ports of one `sched.poll`"),
    Limit(7, "CONSOLE", CONSOLE, "bytes of one `console.write`"),
    Limit(8, "MAX_GFN", MAX_GFN, "first guest frame number beyond RAM"),
    Limit(9, "POOL", None, "free table pages in the caller's pool"),
)
