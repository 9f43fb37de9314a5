"""The second walker agrees with the processor's where nothing is cached, and changes nothing."""

from __future__ import annotations

from collections import Counter
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from hvfuzz.machine.addresses import EXEC, PAGE_SHIFT, READ, WRITE
from hvfuzz.machine.clock import Clock
from hvfuzz.machine.cpu.faults import EptMisconfiguration, EptViolation, GuestFault, Vector
from hvfuzz.machine.cpu.registers import RFLAGS
from hvfuzz.machine.mmu.ept import eptp_of
from hvfuzz.machine.mmu.paging import CR0_WP, CR4_SMAP, CR4_SMEP, EFER_NXE, RFLAGS_AC
from hvfuzz.machine.mmu.stage1 import Mmu
from hvfuzz.machine.mmu.tlb import Tlb
from hvfuzz.machine.physical_memory import PhysicalMemory
from hvfuzz.oracles.shadow.guest_walk import GENERAL, Refusal, guest_virtual, leads, outcome
from hvfuzz.oracles.shadow.stage2_walk import guest_physical

FRAMES = 776
EPT_TABLES = (768, 769, 770, 771)
"""Frames of the EPT's four levels, from the top: where no table of the guest's can be, by whatever leaf."""
GUEST_PAGES = 16
GOOD_S1 = (*(0x63,) * 16, 0x23, 0x03, 0x01, 0x61, 0x67, 0xE3)
GOOD_EPT = (*(0x37,) * 20, 0x33, 0x31, 0x35)
RARE_BITS = tuple(1 << bit for bit in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 20, 21, 40, 51, 52, 62, 63))


OTHER_BITS = tuple(bit for bit in RARE_BITS if not 1 << 12 <= bit < 1 << 40)
"""Those that are no part of an address: no entry of the EPT's upper levels may make its tables a guest's memory."""


def rarely(rng: Random, entry: int, bits: tuple[int, ...] = RARE_BITS) -> int:
    """The entry, or one that differs in a bit."""
    return entry ^ rng.choice(bits) if rng.random() < 0.04 else entry


def random_tables(rng: Random, memory: PhysicalMemory) -> None:
    """Guest pages of which each may be a table of any level, and several may be one frame, behind a random EPT."""
    for level, hfn in enumerate(EPT_TABLES[:-1]):
        memory.store64(hfn << PAGE_SHIFT, rarely(rng, EPT_TABLES[level + 1] << PAGE_SHIFT | 7, OTHER_BITS))
        if level == 2:
            memory.store64(
                (hfn << PAGE_SHIFT) + 8, rarely(rng, 0xB7, (*OTHER_BITS, 1 << 12, 1 << 20))
            )  # gpa 2 MiB on: all of memory again
        if level == 1:
            memory.store64(
                (hfn << PAGE_SHIFT) + 8, rarely(rng, 0xB7, (*OTHER_BITS, 1 << 12, 1 << 20))
            )  # gpa 1 GiB on: likewise
    for page in range(GUEST_PAGES):
        hfn = rng.randrange(8, 8 + GUEST_PAGES) if rng.random() < 0.2 else 8 + page
        memory.store64((EPT_TABLES[-1] << PAGE_SHIFT) + 8 * page, rarely(rng, hfn << PAGE_SHIFT | rng.choice(GOOD_EPT)))
    for hfn in range(8, 8 + GUEST_PAGES):
        for index in (0, 1, 256, 511):
            target = rng.choice((0, 0, 0, 0, 512, 1 << 18)) + rng.randrange(GUEST_PAGES)
            if rng.random() < 0.2:
                target &= ~511
            memory.store64((hfn << PAGE_SHIFT) + 8 * index, rarely(rng, target << PAGE_SHIFT | rng.choice(GOOD_S1)))


def random_core(rng: Random, accessed_dirty: bool) -> Any:
    return SimpleNamespace(
        vpid=1,
        cr0=CR0_WP if rng.random() < 0.7 else 0,
        cr3=rng.randrange(GUEST_PAGES) << PAGE_SHIFT,
        cr4=0,
        efer=EFER_NXE if rng.random() < 0.7 else 0,
        eptp=eptp_of(EPT_TABLES[0] << PAGE_SHIFT, accessed_dirty=accessed_dirty),
        regs=[0] * 18,
    )


@pytest.mark.parametrize("access", [READ, WRITE])
@pytest.mark.parametrize("accessed_dirty", [False, True])
def test_both_walkers_agree(access: int, accessed_dirty: bool) -> None:
    outcomes: Counter[bool] = Counter()
    for seed in range(1000):
        rng = Random(seed)
        memory = PhysicalMemory(FRAMES << PAGE_SHIFT)
        random_tables(rng, memory)
        core = random_core(rng, accessed_dirty)
        for _ in range(4):
            gva = 0
            for shift in (39, 30, 21, 12):
                gva |= rng.choice((0, 0, 1, 256, 511)) << shift
            if gva >> 47:
                gva |= 0xFFFF << 48
            gva |= rng.randrange(4096)
            memory.snapshot()
            found = guest_virtual(memory, core, gva, access)
            generous = guest_virtual(memory, core, gva, access, flags=False)
            assert not memory.dirty
            # Nothing cached: the processor walks.
            mmu = Mmu(memory, Tlb(), Clock())
            try:
                expected: int | None = mmu.translate(core, gva, access, False, False)
            except (GuestFault, EptViolation, EptMisconfiguration):
                expected = None
            assert found == expected, (seed, hex(gva))
            assert generous == found or found is None
            outcomes[found is None] += 1
            memory.restore()
    assert min(outcomes.values()) > 400, outcomes


@pytest.mark.parametrize("access", [READ, WRITE, EXEC])
def test_both_walkers_agree_on_the_exception(access: int) -> None:
    """Of users and supervisors, with SMAP, SMEP and AC: the vector, the error code, and the address."""
    codes: Counter[tuple[int, int]] = Counter()
    for seed in range(2000):
        rng = Random(seed)
        memory = PhysicalMemory(FRAMES << PAGE_SHIFT)
        random_tables(rng, memory)
        for hfn in range(8, 8 + GUEST_PAGES):
            for index in (0, 1, 256, 511):
                place = (hfn << PAGE_SHIFT) + 8 * index
                if rng.random() < 0.9:
                    memory.store64(place, memory.load64(place) | 4)
        core = random_core(rng, accessed_dirty=False)
        core.cr4 = rng.choice((0, CR4_SMAP | CR4_SMEP))
        core.regs[RFLAGS] = rng.choice((0, RFLAGS_AC))
        user = rng.random() < 0.5
        pages: bool | None = True if user else False if core.cr4 else None
        if access != EXEC and core.regs[RFLAGS] and not user:
            pages = None
        for _ in range(2):
            gva = rng.choice((0, 0, 0, 1, 1 << 47)) | rng.choice((0, 1)) << 39 | rng.choice((0, 1)) << 12
            memory.snapshot()
            found = outcome(memory, core, gva, access, pages=pages)
            assert not memory.dirty
            try:
                expected: Any = Mmu(memory, Tlb(), Clock()).translate(core, gva, access, user)
            except GuestFault as fault:
                expected = Refusal(fault.vector, fault.error)
                expected = expected if fault.vector != Vector.PF or fault.address == gva else None
                codes[Refusal(fault.vector, fault.error)] += 1
            except (EptViolation, EptMisconfiguration):
                expected = GENERAL
            assert found == expected, (seed, hex(gva))
            memory.restore()
    kinds = {code & 9 for vector, code in codes if vector == Vector.PF}
    assert kinds == {0, 1, 9}, codes


@pytest.mark.parametrize("access", [READ, WRITE])
def test_both_walkers_agree_on_stage_2(access: int) -> None:
    outcomes: Counter[bool] = Counter()
    for seed in range(1000):
        rng = Random(seed)
        memory = PhysicalMemory(FRAMES << PAGE_SHIFT)
        random_tables(rng, memory)
        eptp = eptp_of(EPT_TABLES[0] << PAGE_SHIFT)
        for gpa in (rng.randrange(1 << 17), 0x20_0000 + rng.randrange(1 << 21), rng.randrange(1 << 31), 1 << 48):
            mmu = Mmu(memory, Tlb(), Clock())
            try:
                expected: int | None = mmu.translate_gpa(eptp, gpa, access)
            except (EptViolation, EptMisconfiguration):
                expected = None
            assert guest_physical(memory, eptp, gpa, access) == expected, (seed, hex(gpa))
            outcomes[expected is None] += 1
    assert min(outcomes.values()) > 400, outcomes


GVA = 0xFFFF_8800_0005_0FF8


def test_what_the_tlb_holds_is_a_way_too(rig: Any) -> None:
    """A stale translation leads the host where the tables do not any more."""
    machine, vcpu = rig.machine, rig.hv.domains[1].vcpus[0]
    assert leads(machine, vcpu, GVA, 16, WRITE)
    rig.run("load(dom1, gva=0xffff880000050ff8, size=8)", "pte(dom1, gva=0xffff880000050000, level=1, entry=0)")
    assert leads(machine, vcpu, GVA, 16, READ)
    assert leads(machine, vcpu, GVA + 8, 8, WRITE)
    rig.run("invlpg(dom1, gva=0xffff880000050000)")
    assert not leads(machine, vcpu, GVA, 16, READ)
    assert leads(machine, vcpu, GVA + 8, 8, READ)


@pytest.mark.parametrize("gva", [0xFFFF_8000_0000_0000, 1 << 47, (1 << 64) - 4])
def test_where_no_guest_may_point(rig: Any, gva: int) -> None:
    assert not leads(rig.machine, rig.hv.domains[1].vcpus[0], gva, 8, READ)
