"""Known deviations of Bochs from the manual, and the exact outcome that each of them leads to.

No part of an outcome is exempt from comparison: the outcome that a quirk turns ours into is computed and compared.
"""

from typing import Final

from hvfuzz.machine.addresses import READ, WRITE
from hvfuzz.machine.cpu.faults import Vector
from hvfuzz.machine.mmu import ept, paging
from hvfuzz.machine.mmu.ept import Qualification
from hvfuzz.references.ept.case import Case, Outcome, Stop
from hvfuzz.references.ept.guest_code import Walk
from hvfuzz.references.ept.memory_map import NAMES, TEMPLATE, WATCHED
from hvfuzz.references.ept.model import Model
from hvfuzz.references.reference import Quirk

LARGE_LEAF_BIT_12: Final = Quirk(
    "large-leaf-bit-12",
    "bit 12 of an EPT leaf of 2 MiB or 1 GiB is ignored",
    "bits 20..12 or 29..12 are reserved, and an entry with any of them set is misconfigured "
    "(SDM Vol. 3C, 29.3.3.1; tables 29-3 and 29-5)",
)
WALK_QUALIFICATION: Final = Quirk(
    "walk-qualification",
    "with EPT accessed and dirty flags enabled, a violation by a guest paging-structure access sets bit 1, not bit 0",
    "such an access counts as a write, and its violation sets both bit 0 and bit 1 (SDM Vol. 3C, table 28-7, note 1)",
)
UNCHECKED_FLAGS: Final = Quirk(
    "unchecked-flags",
    "with EPT accessed and dirty flags disabled, guest accessed and dirty flags are set even in a page that EPT makes "
    "read-only",
    "updates of these flags are data writes, and cause an EPT violation (SDM Vol. 3C, 29.3.3.2)",
)
LATE_FLAGS: Final = Quirk(
    "late-flags",
    "guest accessed flags are set only after the whole walk has succeeded",
    "the accessed flag of an entry is set when the entry is used in a translation; this includes the entries above "
    "one that faults (SDM Vol. 3A, 4.8)",
)
NOTHING_CACHED: Final = Quirk(
    "nothing-cached",
    "no translation outlives a VM entry, with or without INVEPT, so the use of stale ones cannot be compared",
    "VM entries do not invalidate guest-physical mappings while EPT is in use; they may be used until INVEPT "
    "(SDM Vol. 3C, 29.4.3.1 and 29.4.3.3)",
)
"""Affects no case, since our model's TLB is empty at the start of each case."""
EXPLAINING: Final = (LARGE_LEAF_BIT_12, WALK_QUALIFICATION, UNCHECKED_FLAGS, LATE_FLAGS)
"""The quirks that change outcomes."""
QUIRKS: Final = (*EXPLAINING, NOTHING_CACHED)

_BIT_12: Final = 1 << 12
_LARGE_LEAVES: Final = frozenset(hpa for hpa, name in NAMES.items() if name.startswith(("ept2.", "ept3[")))
_GUEST: Final = frozenset(hpa for hpa, name in NAMES.items() if not name.startswith("ept"))
_PLACE: Final = {hpa: place for place, hpa in enumerate(WATCHED)}


def bochs_equivalent(case: Case) -> Case:
    """The case as Bochs runs it: with bit 12 of large EPT leaves clear, and all guest accessed and dirty flags set."""
    entries = dict(case.entries)
    for hpa in _leaves_with_bit_12(case):
        entries[hpa] &= ~_BIT_12
    for hpa in _GUEST:
        # Flags that are already set need no write, so no write of them is refused.
        entries[hpa] = entries.get(hpa, TEMPLATE[hpa]) | paging.A | paging.D
    return case._replace(entries=tuple(sorted(entries.items())))


def _leaves_with_bit_12(case: Case) -> list[int]:
    """Hpas of the large EPT leaves with bit 12 set."""
    return [
        hpa
        for hpa, value in case.entries
        if hpa in _LARGE_LEAVES and value & ept.LARGE and value & ept.RIGHTS and value & _BIT_12
    ]


def with_quirks(model: Model, case: Case, ours: Outcome, stored: tuple[int, ...]) -> tuple[Outcome, tuple[Quirk, ...]]:
    """The outcome that the quirks turn `ours`, our outcome of `case`, into; and the quirks that change it."""
    quirks = []
    ignored = _leaves_with_bit_12(case)
    if ignored and ours.stop is Stop.EPT_MISCONFIGURATION:
        quirks.append(LARGE_LEAF_BIT_12)
    if _is_walk_violation(ours) and ours.qualification & (READ | WRITE) == WRITE:
        quirks.append(UNCHECKED_FLAGS)
    if quirks:
        # In Bochs, the guest continues where ours stopped.
        expected, walks = model.run_with_walks(bochs_equivalent(case), stored)
        memory = list(expected.memory)
        for hpa in ignored:
            memory[_PLACE[hpa]] |= _BIT_12
        for hpa, value in _flags_of(case, _completed(expected, walks)).items():
            memory[_PLACE[hpa]] = value
    else:
        expected, walks = ours, model.run_with_walks(case, stored)[1]
        memory = list(expected.memory)
        before = _flags_of(case, _completed(expected, walks))
        for _, _, table, index, _ in walks[-1].steps if walks else ():
            hpa = table | index << 3
            if hpa in _GUEST and not before[hpa] & paging.A:
                memory[_PLACE[hpa]] &= ~paging.A
        if memory != list(ours.memory):
            quirks.append(LATE_FLAGS)
    qualification = expected.qualification
    if case.eptp & ept.EPTP_ACCESSED_DIRTY and _is_walk_violation(expected):
        qualification &= ~Qualification.READ
        quirks.append(WALK_QUALIFICATION)
    return expected._replace(memory=tuple(memory), qualification=int(qualification)), tuple(quirks)


def _is_walk_violation(outcome: Outcome) -> bool:
    """Whether the outcome is an EPT violation by an access to a guest paging structure."""
    linear = outcome.qualification & (Qualification.LINEAR_VALID | Qualification.FINAL)
    return outcome.stop is Stop.EPT_VIOLATION and linear == Qualification.LINEAR_VALID


def _completed(outcome: Outcome, walks: list[Walk]) -> list[Walk]:
    """The walks that succeed: they reach a leaf, and do not end in #PF."""
    completed = []
    for number, walk in enumerate(walks, 1):
        _, level, _, _, entry = walk.steps[-1] if walk.steps else (0, 4, 0, 0, 0)
        is_leaf = level == 1 or (level < 4 and entry & paging.PS)
        faulted = number == len(walks) and outcome.stop is Stop.EXCEPTION and outcome.vector == Vector.PF
        if is_leaf and not faulted:
            completed.append(walk)
    return completed


def _flags_of(case: Case, walks: list[Walk]) -> dict[int, int]:
    """{hpa: value} of every guest entry, with the accessed and dirty flags that these walks set."""
    entries = {hpa: value for hpa, value in (TEMPLATE | dict(case.entries)).items() if hpa in _GUEST}
    for walk in walks:
        for _, _, table, index, _ in walk.steps:
            hpa = table | index << 3
            if hpa in entries:
                entries[hpa] |= paging.A
        if walk.access == WRITE and hpa in entries:
            entries[hpa] |= paging.D
    return entries
