"""Known deviations of Unicorn from the manual, and the comparison of cases that they affect."""

from collections.abc import Sequence
from typing import Final

from hvfuzz.machine.addresses import WORD
from hvfuzz.machine.cpu.faults import Vector
from hvfuzz.machine.mmu import paging
from hvfuzz.references.reference import Quirk
from hvfuzz.references.stage1.case import Case, Outcome

EARLY_ACCESSED: Final = Quirk(
    name="early-accessed",
    reference="the accessed flag of a PDPTE that maps a 1 GiB page is set before reserved bits and rights are checked, "
    "even if the access then faults",
    manual="the accessed flag is set when an entry is used for a translation (SDM Vol. 3A, 4.8); an entry with a "
    "reserved bit set gives no translation, and one that lacks rights is not used (4.7). Unicorn follows this for "
    "a PDE or PTE that maps a page",
)
_LEAF_BITS: Final = paging.P | paging.PS | paging.A
_NOT_ACCESSED_LEAF: Final = paging.P | paging.PS


def without_early_accessed(case: Case, outcomes: Sequence[Outcome], memory: bytes) -> bytes:
    """`memory`, Unicorn's RAM after the case, without accessed flags that were set too early.

    Returns `memory` itself if there are none. A model with the same quirk differs from the result, so it is caught.
    """
    if any(outcome.vector != Vector.PF for outcome in outcomes):
        return memory  # An access of the case succeeds, and rightly sets the flag.
    words = dict(case.entries)
    for outcome in outcomes:
        pml4e = words.get(_slot(case.cr3, outcome.cr2, 4), 0)
        slot = _slot(pml4e, outcome.cr2, 3)
        entry = words.get(slot, 0)
        if pml4e & paging.P and entry & _LEAF_BITS == _NOT_ACCESSED_LEAF and memory[slot] & paging.A:
            memory = memory[:slot] + entry.to_bytes(WORD, "little") + memory[slot + WORD :]
    return memory


def _slot(table: int, gva: int, level: int) -> int:
    """Physical address of the entry for `gva` in a level-`level` table; `table` is CR3 or the entry above."""
    return table & paging.ADDRESS | (gva >> paging.LEVEL_SHIFTS[4 - level] & 511) * WORD
