"""The guests of a law's runs: they make a batch's calls one by one, pairs that undo each other, and clear names."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from hvfuzz.abi.boot import ARG_ARRAYS, World, argument_page
from hvfuzz.abi.kinds import DOMAIN
from hvfuzz.abi.status import Status
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import Op, Program, Ref
from hvfuzz.guest.run.interpreter import ENTRY, Interpreter
from hvfuzz.guest.run.trace import Outcome, Result
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE, U64, WRITE
from hvfuzz.machine.cpu.faults import EptMisconfiguration, EptViolation, GuestFault
from hvfuzz.machine.cpu.registers import RAX, RDI, RDX, RFLAGS, RIP
from hvfuzz.machine.machine import Machine
from hvfuzz.machine.mmu.ept_walk import STAGE_1
from hvfuzz.machine.mmu.paging import RFLAGS_RF
from hvfuzz.oracles.noninterference.partings import outcome_text
from hvfuzz.targets.laws.exemptions import Exemption
from hvfuzz.targets.laws.state_facts import is_mapped
from hvfuzz.targets.laws.swapped_names import name_offsets

if TYPE_CHECKING:
    from hvfuzz.machine.addresses import Gva
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.targets.laws.guide import Guide, Moment
    from hvfuzz.targets.laws.variant import Variant

OUTCOME: Final = struct.Struct("<2Q")
OUTCOME_OFFSET: Final = 16
"""Offset in a multicall entry of its status and result."""
VMCALL_LENGTH: Final = 3


class GuidedInterpreter(Interpreter):
    """Executes programs as the variant of `guide` says."""

    __slots__ = ("_catalogue", "_guide")

    def __init__(self, machine: Machine, catalogue: Catalogue, world: World, guide: Guide) -> None:
        super().__init__(machine, catalogue, world)
        self._guide: Final = guide
        self._catalogue: Final = catalogue

    # A batch, one by one.

    def _make_batch(self, index: int, op: Op, vcpu: VCpu) -> tuple[int, int]:
        variant = self._guide.variant
        moment = self._guide.counterpart(index)
        if self._clears:
            return self._clearing_entries(op, vcpu)
        if variant is None or moment is None or not variant.one_by_one or self._stays_whole(op, variant, moment):
            return super()._make_batch(index, op, vcpu)
        page = self._arguments.write(op, vcpu)
        _, hpa = self._arguments.page(vcpu)
        count = op.values[op.kind.index["count"]]
        assert isinstance(count, int)
        entries = list(ENTRY.iter_unpack(self.machine.memory.read(hpa + ARG_ARRAYS, ENTRY.size * count)))
        before = list(vcpu.regs)
        done, status = 0, Status.OK
        for place, (number, pointer, _, _) in enumerate(entries):
            vcpu.regs[RIP] = page  # wherever the multicall is, the loop that makes its calls is at valid addresses
            outcome = self._call(vcpu, number, pointer)
            at = self._writable(vcpu, page, ARG_ARRAYS + ENTRY.size * place + OUTCOME_OFFSET)
            if at is None:
                status, done = Status.FAULT, 0
                break
            self.machine.memory.write(at, OUTCOME.pack(outcome[0] & U64, outcome[1]))
            done += outcome[0] == 0
        vcpu.regs[:] = before
        vcpu.regs[RAX], vcpu.regs[RDX], vcpu.regs[RDI] = status & U64, done, page
        vcpu.regs[RIP] = before[RIP] + VMCALL_LENGTH & U64
        vcpu.regs[RFLAGS] = before[RFLAGS] & ~RFLAGS_RF
        return int(status), done

    def _stays_whole(self, op: Op, variant: Variant, moment: Moment) -> bool:
        if Exemption.RACED_BATCH in variant.exempt and self.machine.race_pending:
            return True
        faulted = any(outcome.how == Result.FAULT for outcome in moment.outcomes)
        return Exemption.OWN_ENTRIES in variant.exempt and (not moment.calls or op.mangle is not None or faulted)

    def _writable(self, vcpu: VCpu, page: Gva, offset: int) -> int | None:
        """The hpa of a byte of the argument page, if the guest's kernel can write it."""
        try:
            return self.machine.mmu.translate(vcpu, page, WRITE, False) + offset
        except (GuestFault, EptViolation, EptMisconfiguration):
            return None

    # Pairs of calls that undo each other.

    def _perform(self, index: int, op: Op, program: Program | None) -> None:
        variant = self._guide.variant
        inserted = None if variant is None or program is None else variant.inserted.get(index)
        if variant is None or inserted is None or not self._guide.second:
            super()._perform(index, op, program)
            return
        vcpu = self._actors[op.actor]
        needed = inserted.needs is None or inserted.needs in self._guide.succeeded
        if vcpu.runnable or not needed or (inserted.absent and self._has_device_page(vcpu, *inserted.absent)):
            self._skip(index, op)
            return
        page = argument_page(vcpu.index)
        registers, walk = list(vcpu.regs), self._walk(vcpu, page)
        if walk is None and Exemption.UNREACHABLE_PAGE not in variant.exempt:
            super()._perform(index, op, program)
            return
        if walk is None:
            self._skip(index, op)
            return
        hpa, entries = walk
        memory = self.machine.memory
        before = memory.read(hpa, PAGE_SIZE)
        vcpu.regs[RIP] = page  # wherever the guest's own code is, that of the pair is at a valid address
        super()._perform(index, op, program)
        outcome = self._trace.outcomes[-1]
        vcpu.regs[:] = registers
        memory.write(hpa, before)
        for place, entry in entries:
            memory.store64(place, entry)
        if outcome.how == Result.OK and outcome.status == 0:
            self._guide.succeeded.add(index)
        elif inserted.undoes:
            self._guide.refused_inverse(index, f"{outcome_text(outcome)} of {op.kind.name}")

    def _skip(self, index: int, op: Op) -> None:
        outcome = Outcome(index, op.kind.code, Result.SKIPPED, 0, 0, self.machine.clock.cycles)
        self._trace.outcomes.append(outcome)

    def _walk(self, vcpu: VCpu, page: Gva) -> tuple[int, list[tuple[int, int]]] | None:
        """The hpa of the argument page, and (hpa, value) of the guest's entries before the walk; None if it faults."""
        mmu = self.machine.mmu
        mmu.record = []
        try:
            hpa = mmu.translate(vcpu, page, WRITE, False)
        except (GuestFault, EptViolation, EptMisconfiguration):
            hpa = -1
        steps, mmu.record = mmu.record, None
        entries = [(table + 8 * slot, entry) for stage, _, table, slot, entry in steps if stage == STAGE_1]
        if hpa >= 0:
            return hpa, entries
        for place, entry in entries:
            self.machine.memory.store64(place, entry)
        return None

    def _has_device_page(self, vcpu: VCpu, first: int, count: int) -> bool:
        domain = self._guide.hypervisor.domains[vcpu.domain]
        return any(is_mapped(self.machine, domain.dma.root, page) for page in range(first, first + count))

    # Names in argument structs.

    def _hypercall(self, vcpu: VCpu, op: Op) -> tuple[int, int]:
        offsets = self._offsets(op)
        if not offsets:
            return super()._hypercall(vcpu, op)
        _, hpa = self._arguments.page(vcpu)
        self._guide.named_in = hpa >> PAGE_SHIFT
        try:
            return super()._hypercall(vcpu, op)
        finally:
            self._clear(hpa, offsets)

    def _blob(self, vcpu: VCpu, op: Op) -> tuple[int, int]:
        offsets = self._offsets(op)
        if not offsets:
            return super()._blob(vcpu, op)
        _, hpa = self._arguments.page(vcpu)
        self._guide.named_in = hpa >> PAGE_SHIFT
        try:
            return super()._blob(vcpu, op)
        finally:
            self._clear(hpa, offsets)

    def _clearing_entries(self, op: Op, vcpu: VCpu) -> tuple[int, int]:
        if not self._clears:
            return self._hypercall(vcpu, op)
        _, hpa = self._arguments.page(vcpu)
        data = self.machine.memory.read(hpa, PAGE_SIZE)
        try:
            return self._hypercall(vcpu, op)
        finally:
            count = op.values[op.kind.index["count"]]
            entries = data[ARG_ARRAYS : ARG_ARRAYS + ENTRY.size * (count if isinstance(count, int) else 0)]
            for number, pointer, _, _ in ENTRY.iter_unpack(entries[: len(entries) // ENTRY.size * ENTRY.size]):
                kind = self._catalogue.by_code.get(number)
                if kind is not None and kind.declaration is not None:
                    start = pointer & PAGE_SIZE - 1
                    self._clear(hpa, [start + offset for offset in name_offsets(kind.declaration)])

    @property
    def _clears(self) -> bool:
        variant = self._guide.variant
        return variant is not None and bool(variant.names) and Exemption.NAME_IN_STRUCT in variant.exempt

    def _offsets(self, op: Op) -> tuple[int, ...]:
        if not self._clears:
            return ()
        number = op.kind.number if op.kind.name != "blob" else op.values[0]
        kind = None if isinstance(number, Ref) else self._catalogue.by_code.get(number)  # type: ignore[arg-type]
        return () if kind is None or kind.declaration is None else name_offsets(kind.declaration)

    def _clear(self, hpa: int, offsets: Iterable[int]) -> None:
        for offset in offsets:
            if offset + DOMAIN.width <= PAGE_SIZE:
                self.machine.memory.write(hpa + offset, bytes(DOMAIN.width))
        self._guide.named_in = -1
