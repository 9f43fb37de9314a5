"""The versions of the ABI, and the families and features that a guest can query."""

from typing import NamedTuple

MIN = 1
CURRENT = 2
VERSIONS = range(MIN, CURRENT + 1)

# The bit of a family in page 0 of `discovery.features` is its index here, so families may only be appended.
FAMILIES = ("discovery", "memory", "grant", "event", "sched", "time", "device", "multicall", "console")
FAMILY_BITS = (1 << len(FAMILIES)) - 1


class Feature(NamedTuple):
    """One bit of page 1 of `discovery.features`: a field or a call that a later version added."""

    bit: int
    name: str
    since: int


FEATURES = (
    Feature(0, "populate.flags", 2),
    Feature(1, "memory.exchange", 2),
    Feature(2, "device.dma_batch", 2),
)


def feature_bits(version: int) -> int:
    """Page 1 of `discovery.features` for a domain at `version`."""
    return sum(1 << feature.bit for feature in FEATURES if feature.since <= version)
