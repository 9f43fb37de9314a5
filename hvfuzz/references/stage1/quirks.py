"""Where Unicorn does not do what the manual says, and how such a case is compared all the same."""

from collections.abc import Sequence
from typing import Final

from hvfuzz.machine.addresses import WORD
from hvfuzz.machine.cpu.faults import Vector
from hvfuzz.machine.mmu import paging
from hvfuzz.references.reference import Quirk
from hvfuzz.references.stage1.case import Case, Outcome

EARLY_ACCESSED: Final = Quirk(
    name="early-accessed",
    reference="a PDPTE that maps a 1 GiB page gets its accessed flag before its reserved bits and the rights are "
    "checked, so it gets it from an access that faults",
    manual="SDM Vol. 3A, 4.8: the flag is set in an entry that is used for a translation; where a reserved bit is set, "
    "there is no translation, and where rights are missing, it is not used (4.7). A PDE or a PTE that maps a page is "
    "left alone by Unicorn, too",
)
_LEAF_BITS: Final = paging.P | paging.PS | paging.A
_NOT_ACCESSED_LEAF: Final = paging.P | paging.PS


def without_early_accessed(case: Case, outcomes: Sequence[Outcome], memory: bytes) -> bytes:
    """`memory`, which is RAM of the reference after the case, without the flags that it sets too early.

    If there are none, it is the same object. A model that sets the flag early, too, then differs.
    """
    if any(outcome.vector != Vector.PF for outcome in outcomes):
        return memory  # An access of the case succeeds, and sets the flag for good.
    words = dict(case.entries)
    for outcome in outcomes:
        pml4e = words.get(_slot(case.cr3, outcome.cr2, 4), 0)
        slot = _slot(pml4e, outcome.cr2, 3)
        entry = words.get(slot, 0)
        if pml4e & paging.P and entry & _LEAF_BITS == _NOT_ACCESSED_LEAF and memory[slot] & paging.A:
            memory = memory[:slot] + entry.to_bytes(WORD, "little") + memory[slot + WORD :]
    return memory


def _slot(table: int, gva: int, level: int) -> int:
    """Physical address of the entry for `gva`, of that level, of the table that CR3 or an entry names."""
    return table & paging.ADDRESS | (gva >> paging.LEVEL_SHIFTS[4 - level] & 511) * WORD
