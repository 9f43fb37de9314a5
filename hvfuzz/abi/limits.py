"""The limits of the contract, scaled down from real hypervisors so that short programs reach them."""

from typing import NamedTuple

# Tables of a domain.
GRANTS = 64
HANDLES = 64
PORTS = 128
PORTS_PER_BUCKET = 32
BUCKETS = PORTS // PORTS_PER_BUCKET
POOL = 16
"""Table pages in a guest's paging pool at boot."""

# Elements that one call takes at most.
BATCH = 16
MULTICALL = 16
EXCHANGE = 64
POLL = 16
CONSOLE = 256
RANGE = 512
"""Pages of one `memory.decrease` or `memory.protect`: a whole large leaf."""
POPULATE = 64
"""Order-0 pages of one `memory.populate`."""
POPULATE_LARGE = 2
"""Order-9 blocks of one `memory.populate`."""
UNMAP = 64
DMA_PAGES = 64
DMA_LENGTH = 8192
STRING_BURST = 64
"""Elements of INS or OUTS that are moved in one exit."""

# Addresses.
MAX_GFN = 0x800
"""Guest frame numbers of RAM lie below (8 MiB of guest physical space)."""
IOVA_LIMIT = 1 << 39
"""Device addresses lie below: three-level second-stage tables."""
IOVA_HOLE = range(0xFEE0_0000, 0xFEF0_0000)
"""Device addresses that are interrupt messages: the IOMMU translates none of them, so nothing can be mapped there."""
LARGE_ORDER = 9

# Structs.
HEADER_SIZE = 8
STRUCT_MAX = 256
"""Bytes of an argument struct, header included."""

# Preemption and time.
UNMAP_BURST = 8
"""Releases of `grant.unmap` between two preemption points."""
TIME_SLICE = 16_384
"""Virtual cycles that the others run when a vCPU yields (scaled: real slices are a thousand times as long)."""
CLOCK_GRAIN = 4096
"""`time.clock_read` is rounded down to this many cycles."""
CLOCK_WINDOW = 65536
CLOCK_READS = 8
"""Reads of the clock that a domain has within one window."""

SELF = 0x7FF0
"""The caller, in every domain field."""


class Limit(NamedTuple):
    """One row of `discovery.limits`; `value` is None where the answer depends on the domain's state."""

    what: int
    name: str
    value: int | None
    meaning: str


LIMITS = (
    Limit(0, "GRANTS", GRANTS, "grant entries of a domain"),
    Limit(1, "HANDLES", HANDLES, "grant mappings of a domain"),
    Limit(2, "PORTS", PORTS, f"event ports of a domain, in buckets of {PORTS_PER_BUCKET}"),
    Limit(3, "BATCH", BATCH, "requests of one `device.dma_batch`"),
    Limit(4, "MULTICALL", MULTICALL, "entries of one `multicall`"),
    Limit(5, "EXCHANGE", EXCHANGE, "frames of one `memory.exchange`"),
    Limit(6, "POLL", POLL, "ports of one `sched.poll`"),
    Limit(7, "CONSOLE", CONSOLE, "bytes of one `console.write`"),
    Limit(8, "MAX_GFN", MAX_GFN, "guest frame numbers of RAM lie below it"),
    Limit(9, "POOL", None, "free table pages in the caller's pool"),
)
