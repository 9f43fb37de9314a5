"""Judges each translation when the processor caches it, and for whom the hypervisor translates. Audited runs only.

The guest's tables may change after that, and the entry stays right until the guest flushes it. So this is the moment at
which the oracle's own walker can tell whether an entry is right. An entry that no walk has made is translated anew when
the hypervisor copies by it. Helper of the oracle `principal`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from hvfuzz.machine.addresses import EXEC, PAGE_MASK, READ, WRITE
from hvfuzz.machine.cpu.faults import EptViolation, GuestFault
from hvfuzz.machine.cpu.registers import RFLAGS
from hvfuzz.machine.mmu.paging import CR4_SMAP, CR4_SMEP, RFLAGS_AC
from hvfuzz.machine.mmu.paging_cache import SHIFTS
from hvfuzz.machine.mmu.stage1 import Mmu
from hvfuzz.oracles.principal.translations import tlb_key
from hvfuzz.oracles.scene.excuses import STALE_TABLE
from hvfuzz.oracles.shadow.guest_walk import (
    GENERAL,
    PAGE_FAULT,
    Refusal,
    arrivals,
    guest_tables,
    guest_virtual,
    outcome,
)

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.machine.mmu.paging_cache import CombinedTable, CombinedTableKey
    from hvfuzz.machine.mmu.tlb import CombinedEntry, CombinedKey
    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

NOT_THE_HOST: Final = ("hvfuzz.machine.", "hvfuzz.oracles.", "hvfuzz.guest.", "hvfuzz.targets.", "hvfuzz.explain.")
"""Packages whose code is not the hypervisor's."""
LEVELS: Final = (2, 3, 4)
"""Levels of the entries in the paging-structure caches."""


class Fills:
    """Hooks the MMU of one machine."""

    __snapshot_leaf__ = True
    __slots__ = ("_calls", "_filled", "_hooked", "_machine", "_owners", "_scene", "_tables")
    oracle = "principal"

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        self._scene: Final = scene
        self._machine: Final = scene.machine
        self._calls: Final = scene.calls
        self._filled: dict[CombinedKey, CombinedEntry] = {}
        """The TLB entries that were judged."""
        self._tables: dict[CombinedTableKey, CombinedTable] = {}
        """The entries of the paging-structure caches that were judged."""
        self._owners: dict[int, VCpu] = {}
        """VPID -> the vCPU whose translations it tags."""
        self._hooked: Final[dict[type[Mmu], type[Mmu]]] = {}
        """Class of MMU, which another watcher may have hooked first -> that class with the hooks of this one."""

    def hook(self, on: bool) -> None:
        """Watch each translation from now on, or stop. What is cached at boot counts as judged."""
        tlb = self._machine.tlb
        self._filled, self._tables = tlb.combined.copy(), tlb.structures.combined.copy()
        below = type(self._machine.mmu)
        if not on:
            self._machine.mmu.__class__ = Mmu
        elif below not in self._hooked.values():
            if below not in self._hooked:
                self._hooked[below] = _hooked_mmu(self, below)
            self._machine.mmu.__class__ = self._hooked[below]
        self._owners = {vcpu.vpid: vcpu for vcpu in self._machine.vcpus}

    def reset(self) -> None:
        """Forget what was judged; `hook` follows."""
        self._filled, self._tables = {}, {}

    def host_exception(self, fault: BaseException) -> None:
        """What was translated before is judged already."""

    def guest_copy(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        """Translate anew if the TLB has an entry for the copy that was never judged."""
        key = tlb_key(vcpu, gva)
        entry = self._machine.tlb.combined.get(key)
        if entry is None or entry[0] | gva & PAGE_MASK != hpa or self._filled.get(key) is entry:
            return
        self._filled[key] = entry
        if hpa not in arrivals(self._machine, vcpu, gva, WRITE if write else READ):
            self._report_entry(vcpu, gva, hpa, "no walk has made it")

    def asked(self, vcpu: Any, gva: int, caller: str) -> None:
        """Code of the module `caller` asks for a translation by the tables of `vcpu`."""
        principal = self._calls.principal
        if principal is not None and vcpu is not principal and not caller.startswith(NOT_THE_HOST):
            named = f"vCPU {vcpu.index} of dom{vcpu.domain}" if vcpu in self._machine.vcpus else "no vCPU"
            whose = f"vCPU {principal.index} of dom{principal.domain}"
            text = f"in an exit of {whose}, the hypervisor translates {gva:#x} by the tables of {named}"
            self._scene.report(self.oracle, "translation", text)

    def walked(self, key: CombinedKey, gva: int, access: int, start: Any, hpa: int) -> None:
        """A walk for `gva`, from the cached table `start` or from the root, has come to `hpa` and was cached."""
        entry = self._machine.tlb.combined.get(key)
        if entry is not None:
            self._filled[key] = entry
        vcpu = self._owners.get(key[0])
        if vcpu is None:
            return  # The oracle `exits` knows the VPIDs.
        memory = self._machine.memory
        self._judge_tables(vcpu, key, gva, start)
        if hpa == guest_virtual(memory, vcpu, gva, access):
            return
        if start is not None and hpa == guest_virtual(memory, vcpu, gva, access, below=start):
            self._scene.excused(STALE_TABLE)
            return
        self._report_entry(vcpu, gva, hpa, "its tables say something else")

    def ended(
        self, vcpu: Any, gva: int, access: int, user: bool, smap: bool, start: Any, fault: BaseException | None
    ) -> None:
        """A walk from the cached table `start`, or from the root, lets the access through, or raises `fault`."""
        memory = self._machine.memory
        pages = _pages(vcpu, access, user, smap)
        tables = (None,) if start is None else (None, start)
        found = [outcome(memory, vcpu, gva, access, below=below, pages=pages) for below in tables]
        if isinstance(fault, GuestFault):
            raised: Refusal | None = Refusal(fault.vector, fault.error)
            if raised in found and (fault.vector != PAGE_FAULT or fault.address == gva):
                return
        else:
            raised = None if fault is None else GENERAL
            if any((each == GENERAL) if fault else not isinstance(each, Refusal) for each in found):
                return
        right = [f"vector {each[0]} ({each[1]:#x})" if isinstance(each, Refusal) else f"{each:#x}" for each in found]
        whose = (
            f"{'user' if user else 'supervisor'} access {access} to {gva:#x} of vCPU {vcpu.index} of dom{vcpu.domain}"
        )
        text = f"the {whose} {'is let through' if raised is None else f'raises {fault}'}; its tables say {right[-1]}"
        self._scene.report(self.oracle, "access", text)

    def _judge_tables(self, vcpu: VCpu, key: CombinedKey, gva: int, start: CombinedTable | None) -> None:
        """Judge the cached entries on the way that this walk has made."""
        cached, memory = self._machine.tlb.structures.combined, self._machine.memory
        right: set[tuple[int, int]] | None = None
        for level in LEVELS:
            place = (*key[:3], level, gva >> SHIFTS[level])
            table = cached.get(place)
            if table is None or self._tables.get(place) is table:
                continue
            self._tables[place] = table
            if right is None:
                right = {*guest_tables(memory, vcpu, gva)}
                if start is not None:
                    right |= {*guest_tables(memory, vcpu, gva, start)}
            if (level, table[0]) not in right:
                self._report_entry(vcpu, gva, table[0], f"as its table of level {level - 1}, which it is not")

    def _report_entry(self, vcpu: VCpu, gva: int, hpa: int, why: str) -> None:
        text = f"gva {gva:#x} of vCPU {vcpu.index} of dom{vcpu.domain} is cached as {hpa:#x}: {why}"
        self._scene.report(self.oracle, "cached", text)


def _pages(vcpu: VCpu, access: int, user: bool, smap: bool) -> bool | None:
    """Which pages the access may use, as `guest_walk.pages_of`: SMEP denies fetches, SMAP data (SDM Vol. 3A, 4.6.1)."""
    if user:
        return True
    if access & EXEC:
        return False if vcpu.cr4 & CR4_SMEP else None
    return False if smap and vcpu.cr4 & CR4_SMAP and not vcpu.regs[RFLAGS] & RFLAGS_AC else None


def _hooked_mmu(fills: Fills, base: type[Mmu]) -> type[Mmu]:
    """A class of MMU, otherwise as `base`, that tells `fills` of each translation and of each walk."""
    below: Any = base  # known only when the MMU is hooked

    class HookedMmu(below):  # type: ignore[misc]
        """See `_hooked_mmu`."""

        __slots__ = ()

        def translate(self, vcpu: Any, gva: int, access: int, user: bool, smap: bool = True) -> int:
            fills.asked(vcpu, gva, sys._getframe(1).f_globals.get("__name__", ""))
            hpa: int = super().translate(vcpu, gva, access, user, smap)
            return hpa

        def _walk(self, vcpu: Any, gva: int, access: int, user: bool, smap: bool, key: CombinedKey, start: Any) -> int:
            try:
                hpa: int = super()._walk(vcpu, gva, access, user, smap, key, start)
            except (GuestFault, EptViolation) as fault:
                fills.ended(vcpu, gva, access, user, smap, start, fault)
                raise
            fills.ended(vcpu, gva, access, user, smap, start, None)
            fills.walked(key, gva, access, start, hpa)
            return hpa

    return HookedMmu
