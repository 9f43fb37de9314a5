"""The versions of the contract, and the families and features that a guest asks for before it uses them."""

from typing import NamedTuple

MIN = 1
CURRENT = 2
VERSIONS = range(MIN, CURRENT + 1)

# The bit of a family in page 0 of `discovery.features` is its place here: families are only ever appended.
FAMILIES = ("discovery", "memory", "grant", "event", "sched", "time", "device", "multicall", "console")
FAMILY_BITS = (1 << len(FAMILIES)) - 1


class Feature(NamedTuple):
    """One bit of page 1 of `discovery.features`: a field or a call that later versions added."""

    bit: int
    name: str
    since: int


FEATURES = (
    Feature(0, "populate.flags", 2),
    Feature(1, "memory.exchange", 2),
    Feature(2, "device.dma_batch", 2),
)


def feature_bits(version: int) -> int:
    """Page 1 of `discovery.features` as a domain at `version` sees it."""
    return sum(1 << feature.bit for feature in FEATURES if feature.since <= version)
