"""The page walk of `hvfuzz walk`: every table entry read in both stages, every cache hit, and the result."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from hvfuzz.machine.addresses import EXEC, PAGE_MASK, PAGE_SHIFT, READ, WRITE
from hvfuzz.machine.cpu.faults import EptMisconfiguration, EptViolation, GuestFault
from hvfuzz.machine.cpu.processor_state import USER
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.mmu.ept_walk import CACHED, STAGE_1, STAGE_2, STRUCTURE_1, STRUCTURE_2, WalkStep

ACCESSES: Final = {"r": READ, "w": WRITE, "x": EXEC}
LEVELS: Final = ("page", "PTE", "PDE", "PDPTE", "PML4E")
"""Names of guest entries, by level; level 0 is the page."""
TOP: Final = 4
"""The level at which a walk of either stage begins without cached entries."""
FLAGS: Final = -1
"""Instead of a level: the walk writes an accessed or dirty flag to the entry that it read before."""


class Reference(NamedTuple):
    """The value `entry` of entry number `slot` in the EPT table at hpa `table`."""

    level: int
    table: int
    slot: int
    entry: int


class Structure(NamedTuple):
    """A hit in a paging-structure cache, which lets a walk begin below `level`, at the table at hpa `table`.

    In `stage` 1, the walk skips the guest's entries down to `level`, with stage 2 of these and of the next table. In
    `stage` 2, it skips the EPT entries down to `level`. `rights` are the combined rights of the skipped entries, as
    bits of an entry of that stage.
    """

    stage: int
    level: int
    table: int
    rights: int


class Leg(NamedTuple):
    """The translation of one guest physical address by stage 2, from `references` or from a cache.

    `level` is the level of the guest entry at `gpa`: 0 for the page itself, FLAGS for a flag that is written.
    `hpa` is None if stage 2 refused the access; `entry` is the guest entry read there, or None. With a `structure` of
    stage 2, the references begin below it. With one of stage 1, there are none, and the walk begins with this leg.
    """

    level: int
    gpa: int
    references: tuple[Reference, ...]
    cached: bool
    hpa: int | None
    entry: int | None
    structure: Structure | None = None


class Walk(NamedTuple):
    """A whole translation; `hpa` is None if it failed, and `outcome` is the result as text."""

    who: str
    gva: int
    access: str
    user: bool
    hit: bool
    """The TLB had the combined mapping, so no table was read."""
    legs: tuple[Leg, ...]
    hpa: int | None
    outcome: str

    @property
    def references(self) -> int:
        """Number of table entries read, in both stages."""
        return sum(len(leg.references) + (leg.entry is not None) for leg in self.legs)

    @property
    def hits(self) -> int:
        """Number of cache hits: for the whole walk, a leg, or the first part of either."""
        return self.hit + sum(leg.cached + (leg.structure is not None) for leg in self.legs)

    @property
    def began(self) -> str:
        """Name of the first guest entry that was read; "" if none was."""
        return next((LEVELS[leg.level] for leg in self.legs if leg.level > 0), "")


def walk(vcpu: VCpu, gva: int, access: str, *, user: bool | None = None, cold: bool = False) -> Walk:
    """Make `vcpu` translate `gva` for `access` (a key of ACCESSES), with all effects on flags and caches.

    `user` is the mode of the access (None: the vCPU's mode). `cold` empties the caches and keeps them empty during the
    walk, which would otherwise hit EPT entries that it cached itself.
    """
    mmu, tlb = vcpu.mmu, vcpu.machine.tlb
    capacity = tlb.capacity
    if cold:
        tlb.set_capacity(0)
    in_user_mode = vcpu.cpl == USER if user is None else user
    record: list[WalkStep] = []
    mmu.record = record
    before = tlb.hits
    hpa: int | None = None
    fault_gpa: int | None = None
    try:
        hpa = mmu.translate(vcpu, gva, ACCESSES[access], in_user_mode)
        outcome = f"hpa {hpa:#x}"
    except GuestFault as fault:
        outcome = f"the guest gets {fault}"
    except (EptViolation, EptMisconfiguration) as fault:
        fault_gpa = fault.gpa
        outcome = str(fault)
    finally:
        mmu.record = None
        tlb.set_capacity(capacity)
    hit = tlb.hits != before
    who = f"dom{vcpu.domain}.{vcpu.index}"
    return Walk(who, gva, access, in_user_mode, hit, _legs(record, gva, hpa, fault_gpa), hpa, outcome)


def _legs(record: Sequence[WalkStep], gva: int, hpa: int | None, fault_gpa: int | None) -> tuple[Leg, ...]:
    """Group the steps of a walk into legs: each ends with the guest entry read, or where the next leg begins."""
    legs: list[Leg] = []
    level = 4
    starts = [at for at, step in enumerate(record) if step[0] not in (STAGE_1, STAGE_2) or step[:2] == (STAGE_2, TOP)]
    for start, end in pairwise([*starts, len(record)]):
        steps = record[start:end]
        entries = [step for step in steps if step[0] == STAGE_1]
        last = end == len(record)
        if entries:
            _, level, table, index, entry = entries[0]
            place: int | None = table + 8 * index
        else:
            entry, place = None, None
        cached = steps[0][0] == CACHED
        references = tuple(Reference(*step[1:]) for step in steps if step[0] == STAGE_2)
        structure = _structure(steps[0])
        gpa = _gpa(steps[0], references)
        if entries:
            leg_level = level
            gpa |= 8 * index
        elif last and fault_gpa is not None:
            gpa, leg_level = fault_gpa, _next_level(legs)
        elif last and hpa is not None:
            gpa, place, leg_level = gpa | gva & PAGE_MASK, hpa, 0
        else:
            leg_level = FLAGS
        legs.append(Leg(leg_level, gpa, references, cached, place, entry, structure))
    return tuple(legs)


def _structure(step: WalkStep) -> Structure | None:
    """The paging-structure cache hit that a leg begins with, or None."""
    if step[0] == STRUCTURE_1:
        return Structure(1, step[1], step[2], step[4])
    return Structure(2, step[1], step[2], step[4]) if step[0] == STRUCTURE_2 else None


def _gpa(step: WalkStep, references: Sequence[Reference]) -> int:
    """Gpa of the page that a leg translates, from its steps."""
    if step[0] == STRUCTURE_1:
        return step[3]
    if step[0] in (CACHED, STRUCTURE_2):
        return step[3] << PAGE_SHIFT
    return sum(each.slot << PAGE_SHIFT + 9 * (each.level - 1) for each in references)


def _next_level(legs: Sequence[Leg]) -> int:
    """The level of the guest entry that a walk reads after these legs; 0 for the page."""
    read = [leg for leg in legs if leg.entry is not None]
    if not read:
        return 4
    leg = read[-1]
    entry = leg.entry or 0
    large = leg.level in (2, 3) and entry & 0x80
    return 0 if large else leg.level - 1
