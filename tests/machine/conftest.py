"""A small guest for tests of translation: an EPT, and stage-1 tables that tests fill in entry by entry."""

from typing import Final

import pytest

from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.machine import Machine
from hvfuzz.machine.mmu import ept, paging

RAM: Final = 4 << 20
"""Hpa of guest-physical 0: the EPT maps the first 2 MiB there, page by page, all rights, write-back."""
EPT_ROOT: Final = 0x1000
LEAF: Final = ept.RIGHTS | ept.MemoryType.WB << ept.MEMORY_TYPE_SHIFT
TABLE_BITS: Final = paging.P | paging.RW | paging.US | paging.A
ROOT_GPA: Final = 0x10_0000
"""Gpa of the guest's PML4 table; further tables follow it."""


class Guest:
    """One vCPU whose tables tests edit by address; nothing is flushed implicitly."""

    def __init__(self) -> None:
        self.machine = Machine(16 << 20)
        self.memory = self.machine.memory
        self.vcpu: VCpu = self.machine.add_vcpu(1)
        store = self.memory.store64
        store(EPT_ROOT, 0x2000 | ept.RIGHTS)
        store(0x2000, 0x3000 | ept.RIGHTS)
        store(0x3000, 0x4000 | ept.RIGHTS)
        for gfn in range(512):
            store(0x4000 + 8 * gfn, RAM + (gfn << PAGE_SHIFT) | LEAF)
        self.vcpu.eptp = ept.eptp_of(EPT_ROOT)
        self.vcpu.cr3 = ROOT_GPA
        self._free = ROOT_GPA + 0x1000

    def ept_leaf(self, gpa: int) -> int:
        """Hpa of the EPT entry that maps this page."""
        return 0x4000 + 8 * (gpa >> PAGE_SHIFT)

    def entry(self, gva: int, level: int) -> int:
        """Hpa of the stage-1 entry of `level` (4..1) for `gva`; creates missing tables, with all rights."""
        table = ROOT_GPA
        for step in range(4, level, -1):
            slot = RAM + table + 8 * (gva >> 12 + 9 * (step - 1) & 511)
            if not self.memory.load64(slot) & paging.P:
                self.memory.store64(slot, self._free | TABLE_BITS)
                self._free += 0x1000
            table = self.memory.load64(slot) & paging.ADDRESS
        return RAM + table + 8 * (gva >> 12 + 9 * (level - 1) & 511)

    def map(self, gva: int, gpa: int, flags: int, level: int = 1) -> int:
        """Map the page of `gva` by a leaf of `level`; return the Hpa of the leaf."""
        slot = self.entry(gva, level)
        self.memory.store64(slot, gpa | flags | (paging.PS if level > 1 else 0))
        return slot

    def translate(self, gva: int, access: int, user: bool = False, **options: bool) -> int:
        """The Hpa of `gva` for `access`, by the MMU."""
        return self.machine.mmu.translate(self.vcpu, gva, access, user, **options)

    def flush(self) -> None:
        """Empty the TLB."""
        self.machine.tlb.invept(None)


@pytest.fixture
def guest() -> Guest:
    """A guest with an empty linear address space."""
    return Guest()


@pytest.fixture(scope="session")
def new_guest() -> type[Guest]:
    """The class, for tests that need more than one guest."""
    return Guest
