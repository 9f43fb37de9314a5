"""What Bochs is known to do otherwise than the manual says, and what it is then to answer, exactly.

No part of an outcome is left out for a quirk: the outcome that the quirk makes of ours is computed, and compared.
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
    "bits 20..12 or 29..12 are reserved, and an entry with one of them set is misconfigured "
    "(SDM Vol. 3C, 29.3.3.1; tables 29-3 and 29-5)",
)
WALK_QUALIFICATION: Final = Quirk(
    "walk-qualification",
    "with EPT accessed and dirty flags enabled, a violation by a guest paging-structure access sets bit 1 only",
    "such an access counts as a write, and its violation sets both bit 0 and bit 1 (SDM Vol. 3C, table 28-7, note 1)",
)
UNCHECKED_FLAGS: Final = Quirk(
    "unchecked-flags",
    "with EPT accessed and dirty flags disabled, guest accessed and dirty flags are set in a page that stage 2 lets "
    "nobody write",
    "writes that update them are data writes, and cause an EPT violation there (SDM Vol. 3C, 29.3.3.2)",
)
LATE_FLAGS: Final = Quirk(
    "late-flags",
    "guest accessed flags are set only when the whole walk has succeeded",
    "the accessed flag of an entry is set when the entry is used as part of a translation, which the entries above one "
    "that faults were (SDM Vol. 3A, 4.8)",
)
NOTHING_CACHED: Final = Quirk(
    "nothing-cached",
    "no translation outlives a VM entry, with or without INVEPT: what a stale one does is not to be seen",
    "VM entries invalidate no guest-physical mappings while EPT is in use, and those may be used until INVEPT "
    "(SDM Vol. 3C, 29.4.3.1 and 29.4.3.3)",
)
"""Concerns no case by itself: the model's TLB is empty where a case begins."""
EXPLAINING: Final = (LARGE_LEAF_BIT_12, WALK_QUALIFICATION, UNCHECKED_FLAGS, LATE_FLAGS)
"""Those that change outcomes."""
QUIRKS: Final = (*EXPLAINING, NOTHING_CACHED)

_BIT_12: Final = 1 << 12
_LARGE_LEAVES: Final = frozenset(hpa for hpa, name in NAMES.items() if name.startswith(("ept2.", "ept3[")))
_GUEST: Final = frozenset(hpa for hpa, name in NAMES.items() if not name.startswith("ept"))
_PLACE: Final = {hpa: place for place, hpa in enumerate(WATCHED)}


def as_taken(case: Case) -> Case:
    """The case without what Bochs does not look at: bit 12 of large leaves, and whether guest flags can be set."""
    entries = dict(case.entries)
    for hpa in _freed(case):
        entries[hpa] &= ~_BIT_12
    for hpa in _GUEST:
        # Flags that are set need no write, so none is refused.
        entries[hpa] = entries.get(hpa, TEMPLATE[hpa]) | paging.A | paging.D
    return case._replace(entries=tuple(sorted(entries.items())))


def _freed(case: Case) -> list[int]:
    """Hpas of the large EPT leaves of which bit 12 is set."""
    return [
        hpa
        for hpa, value in case.entries
        if hpa in _LARGE_LEAVES and value & ept.LARGE and value & ept.RIGHTS and value & _BIT_12
    ]


def with_quirks(model: Model, case: Case, ours: Outcome, stored: tuple[int, ...]) -> tuple[Outcome, tuple[Quirk, ...]]:
    """What the quirks make of `ours`, our outcome of `case`, and those of them that change it."""
    quirks = []
    freed = _freed(case)
    if freed and ours.stop is Stop.EPT_MISCONFIGURATION:
        quirks.append(LARGE_LEAF_BIT_12)
    if _is_walk_violation(ours) and ours.qualification & (READ | WRITE) == WRITE:
        quirks.append(UNCHECKED_FLAGS)
    if quirks:
        # The guest goes on where ours stopped.
        expected, walks = model.run_with_walks(as_taken(case), stored)
        memory = list(expected.memory)
        for hpa in freed:
            memory[_PLACE[hpa]] |= _BIT_12
        for hpa, value in _flags_of(case, _finished(expected, walks)).items():
            memory[_PLACE[hpa]] = value
    else:
        expected, walks = ours, model.run_with_walks(case, stored)[1]
        memory = list(expected.memory)
        before = _flags_of(case, _finished(expected, walks))
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
    """Whether an access to a guest paging structure violates EPT."""
    linear = outcome.qualification & (Qualification.LINEAR_VALID | Qualification.FINAL)
    return outcome.stop is Stop.EPT_VIOLATION and linear == Qualification.LINEAR_VALID


def _finished(outcome: Outcome, walks: list[Walk]) -> list[Walk]:
    """The walks that translate their address: they reach a leaf, and no #PF ends them."""
    finished = []
    for number, walk in enumerate(walks, 1):
        _, level, _, _, entry = walk.steps[-1] if walk.steps else (0, 4, 0, 0, 0)
        is_leaf = level == 1 or (level < 4 and entry & paging.PS)
        faulted = number == len(walks) and outcome.stop is Stop.EXCEPTION and outcome.vector == Vector.PF
        if is_leaf and not faulted:
            finished.append(walk)
    return finished


def _flags_of(case: Case, walks: list[Walk]) -> dict[int, int]:
    """Every guest entry after these walks, with the accessed and dirty flags that they set and no others."""
    entries = {hpa: value for hpa, value in (TEMPLATE | dict(case.entries)).items() if hpa in _GUEST}
    for walk in walks:
        for _, _, table, index, _ in walk.steps:
            hpa = table | index << 3
            if hpa in entries:
                entries[hpa] |= paging.A
        if walk.access == WRITE and hpa in entries:
            entries[hpa] |= paging.D
    return entries
