"""The exemptions: what the laws do not compare, or do not change, each with its reason. A test has a program for each.

The clock is none of them: the laws whose runs take different times lead the second run along the times of the first.
"""

from enum import StrEnum
from types import MappingProxyType
from typing import Final

BATCH: Final = "multicall"
"""The name of the call that makes several."""


class Exemption(StrEnum):
    """One thing that a law lets be."""

    CACHES = "caches"
    RACED_BATCH = "raced batch"
    OWN_ENTRIES = "own entries"
    UNREACHABLE_PAGE = "unreachable page"
    HEAP_NUMBER = "heap number"
    TABLE_PAGES = "table pages"
    NAMES_IN_MEMORY = "names in memory"
    NAME_IN_STRUCT = "name in struct"


ALL: Final = frozenset(Exemption)

REASONS: Final = MappingProxyType(
    {
        Exemption.CACHES: "all: both runs have no caches of translations, from which the manual lets any entry go at "
        "any time (SDM Vol. 3C, 29.4), and which a flush of one call empties for the next",
        Exemption.RACED_BATCH: "multicall: a batch with a race stays one call, since the race names a fetch, "
        "a write or a preemption point of the whole batch",
        Exemption.OWN_ENTRIES: "multicall: a batch that is damaged, refused as a whole, ended by an exception, or "
        "whose entries the program does not show, stays one call",
        Exemption.UNREACHABLE_PAGE: "undo: a pair is not made where the vCPU waits, or does not reach its argument "
        "page without a fault",
        Exemption.HEAP_NUMBER: "undo: heap pages are numbered in the order of their allocation, and the header of a "
        "page, which the hypervisor alone reads, has its number and the canary made of it",
        Exemption.TABLE_PAGES: "undo: a pair may give table pages back to the domain's pool in another order, so later "
        "tables may be in other pages of it; what they map is compared, and how many pages the pool has",
        Exemption.NAMES_IN_MEMORY: "names: in both runs, calls that take the name of a domain from memory that the "
        "program does not show, or while another vCPU may change it, are left out or made plainly",
        Exemption.NAME_IN_STRUCT: "names: in both runs, the guest clears the name in its argument struct after the "
        "call, since a reader would find another number there; what follows a call that copies its own struct is "
        "not compared",
    }
)
"""The law, and why."""
