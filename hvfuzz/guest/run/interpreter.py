"""Runs a program on a booted machine: each op is executed by its vCPU, as the guest's own code would."""

import struct
from collections.abc import Callable, Sequence
from typing import Final

from hvfuzz.abi.boot import ARG_ARRAYS, ARG_NESTED, World, argument_page
from hvfuzz.abi.kinds import Kind
from hvfuzz.abi.layout import Layout
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import Op, Program, Ref, Value, batched
from hvfuzz.guest.run.instructions import INSTRUCTIONS, Unreachable
from hvfuzz.guest.run.trace import Outcome, Result, Trace
from hvfuzz.machine.addresses import PAGE_SIZE, U64, WRITE, Gva
from hvfuzz.machine.cpu.faults import EptMisconfiguration, EptViolation, GuestFault
from hvfuzz.machine.cpu.registers import Reg
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.fetches import NO_TRIGGER
from hvfuzz.machine.machine import Machine

WORK_BUDGET: Final = 1 << 32
"""Virtual cycles after which a program ends, whatever ops are left."""
ENTRY: Final = struct.Struct("<QQQQ")
"""A multicall entry: number, address of the struct, status, result."""
STRUCT_ROOM: Final = 0x80
"""Bytes of the argument page kept for each batched call's struct; its arrays follow."""
ARRAY_WORDS: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
_RAX: Final = int(Reg.RAX)
_RDX: Final = int(Reg.RDX)
_RDI: Final = int(Reg.RDI)
_new = tuple.__new__
"""Makes an Outcome of a tuple at a third of the cost of its constructor: there is one an op."""


_OK: Final = Result.OK


class HostStopped(Exception):
    """The host died while it handled an exit: nothing runs after this."""


class HostBusy(Exception):
    """A vCPU exits while the host handles another vCPU's exit: it waits, and performs its op after that one."""


class _NoRoom(Exception):
    """The call's arrays do not fit into the argument page."""


class Interpreter:
    """Executes programs on `machine`, booted as `world`; `machine.exit_handler` may raise the two exceptions above."""

    __slots__ = ("_actors", "_batched", "_execute", "_late", "_layouts", "_pages", "_results", "_trace", "machine")

    def __init__(self, machine: Machine, catalogue: Catalogue, world: World) -> None:
        self.machine: Final = machine
        self._layouts: Final = tuple(_layouts(catalogue, domain.abi_version) for domain in world.domains)
        """For each domain the struct of each call, by opcode, as its version of the ABI has it."""
        self._actors: Final = {(vcpu.domain, vcpu.index): vcpu for vcpu in machine.vcpus}
        self._pages: Final = tuple(argument_page(index) for index in range(max(d.vcpus for d in world.domains)))
        """The argument page of each vCPU of a domain, by its index."""
        self._results: list[int] = []
        self._late: list[tuple[int, Op]] = []
        self._batched = 0
        self._trace = Trace()
        self._execute: Final = {catalogue.by_name[name].code: run for name, run in INSTRUCTIONS.items()}
        self._execute[catalogue.by_name["tlb"].code] = self._set_tlb_capacity

    def run(
        self,
        program: Program,
        before: Callable[[int, Op], None] | None = None,
        after: Callable[[int, Op, list[Outcome]], None] | None = None,
    ) -> Trace:
        """Run `program` from the machine's present state; `before` and `after` are called around each op.

        `after` gets the outcomes that the op added: its own, and those of what raced with it or was batched by it.
        """
        self._trace = trace = Trace()
        ops = program.ops
        outcomes = trace.outcomes
        self._results = [0] * len(ops)
        self._late = []
        fetches, clock = self.machine.fetches, self.machine.clock
        limit = clock.cycles + WORK_BUDGET
        index = first = 0
        log = fetches.log
        try:
            while index < len(ops):
                op = ops[index]
                first = len(outcomes)
                if before is not None:
                    before(index, op)
                # As its `reset`, without the call.
                fetches.count = 0
                log.clear()
                fetches.trigger = NO_TRIGGER
                fetches.action = None
                if op.race is not None:
                    self._arm(index, op)
                self._batched = 0
                self._perform(index, op, program)
                while self._late:
                    fetches.reset()
                    late_index, late = self._late.pop(0)
                    self._perform(late_index, late, None)
                if after is not None:
                    after(index, op, outcomes[first:])
                index += 1 + self._batched
                if clock.cycles > limit:
                    trace.stopped = "work budget"
                    break
        except HostStopped:
            outcome = Outcome(index, ops[index].kind.code, Result.HOST_DOWN, 0, 0, clock.cycles)
            trace.outcomes.append(outcome)
            trace.stopped = "host stopped"
            if after is not None:
                after(index, ops[index], trace.outcomes[first:])
        fetches.reset()
        return trace

    def _arm(self, index: int, op: Op) -> None:
        """Have the race of `op` performed by its own vCPU just before the fetch it names."""
        race = op.race
        assert race is not None
        if race.op.actor == op.actor:
            return  # one vCPU cannot act while it is in the host itself
        fetches = self.machine.fetches

        def act() -> None:
            try:
                self._perform(index, race.op, None)
            except HostBusy:
                self._late.append((index, race.op))

        fetches.arm(race.fetch, act)

    def _perform(self, index: int, op: Op, program: Program | None) -> None:
        """Execute one op on its vCPU and record the outcome; batched calls follow it only in a `program`."""
        kind, actor, values, _, _ = op
        vcpu = self._actors.get(actor)
        how, status, result = _OK, 0, 0
        if vcpu is None or vcpu.runnable:
            how = Result.SKIPPED
        else:
            try:
                if kind.follow is not None and values[kind.follow] == 0 and program is not None:
                    self._batch(index, op, vcpu, program)
                    return
                if kind.declaration is not None:
                    status, result = self._hypercall(vcpu, op)
                    if status == 0 and program is not None and kind.produces is not None:
                        self._results[index] = result
                elif kind.name == "blob":
                    status, result = self._blob(vcpu, op)
                elif kind.name == "vmcall":
                    status, result = self._call(vcpu, self._number(values[0]), self._number(values[1]))
                else:
                    numbers = [value if type(value) is int else self._number(value) for value in values]
                    result = self._execute[kind.code](vcpu, numbers) or 0
            except GuestFault as fault:
                how, status, result = Result.FAULT, fault.vector, fault.error
            except (Unreachable, _NoRoom):
                how = Result.SKIPPED
        outcome = _new(Outcome, (index, kind.code, how, status, result, self.machine.clock.cycles))
        self._trace.outcomes.append(outcome)

    def _set_tlb_capacity(self, _vcpu: VCpu, values: Sequence[int]) -> None:
        self.machine.tlb.set_capacity(values[0])
        self.machine.iommu.set_capacity(values[0])

    # Arguments.

    def _number(self, value: Value) -> int:
        if isinstance(value, Ref):
            return self._results[value.op]
        return value if isinstance(value, int) else 0

    def _argument_page(self, vcpu: VCpu) -> tuple[Gva, int]:
        """The Gva and Hpa of the vCPU's argument page, writable; a guest fault if it is not there any more."""
        page = self._pages[vcpu.index]
        try:
            hpa = self.machine.mmu.translate(vcpu, page, WRITE, False)
        except (EptViolation, EptMisconfiguration):
            vcpu.store(page, 8, 0)  # the guest meets what any store of its meets
            try:
                # It went through, to memory if the violation was a spurious one, by way of a stale paging structure.
                hpa = self.machine.mmu.translate(vcpu, page, WRITE, False)
            except (EptViolation, EptMisconfiguration):
                # The guest has put a device's registers where its arguments were.
                raise Unreachable from None
        observer = self.machine.access_observer
        if observer is not None:
            observer(vcpu, hpa, PAGE_SIZE, WRITE)
        return page, hpa

    def _encode(self, op: Op, vcpu: VCpu, arrays: int) -> tuple[bytes, list[tuple[int, bytes]], int]:
        """The argument struct, the arrays with their offsets in the argument page, and where these end.

        Arrays are laid out from offset `arrays` on, one after another.
        """
        if arrays > PAGE_SIZE:
            raise _NoRoom
        kind, _, values, mangle, _ = op
        out: list[tuple[int, bytes]] = []
        numbers: list[int] = []
        for value in values:
            # The exact types, since this is the hottest loop here: a Ref is a tuple, too.
            if type(value) is int:
                numbers.append(value)
            elif type(value) is Ref:
                numbers.append(self._results[value.op])
            else:
                assert isinstance(value, tuple)
                data = self._array(value, kind.fields[len(numbers)].kind)
                if arrays + len(data) > PAGE_SIZE:
                    raise _NoRoom
                numbers.append(self._pages[vcpu.index] + arrays)
                out.append((arrays, data))
                arrays = (arrays + len(data) + 7) & ~7
        layout = self._layouts[vcpu.domain][kind.code]
        if mangle is None:
            return layout.encode(numbers), out, arrays
        reserved = mangle.reserved or 0
        return layout.encode(numbers, size=mangle.size, version=mangle.version, reserved=reserved), out, arrays

    def _array(self, values: Sequence[int | Ref], kind: Kind) -> bytes:
        element = kind.element
        width = element.width if element is not None else 8
        mask = (1 << (8 * width)) - 1
        return struct.pack(f"<{len(values)}{ARRAY_WORDS[width]}", *(self._number(value) & mask for value in values))

    # Hypercalls.

    def _call(self, vcpu: VCpu, number: int, pointer: int) -> tuple[int, int]:
        regs = vcpu.regs
        regs[_RAX] = number & U64
        regs[_RDI] = pointer & U64
        vcpu.vmcall()
        status = regs[_RAX]
        return (status - (1 << 64) if status >> 63 else status), regs[_RDX]

    def _hypercall(self, vcpu: VCpu, op: Op) -> tuple[int, int]:
        declaration = op.kind.declaration
        assert declaration is not None
        data, arrays, _ = self._encode(op, vcpu, ARG_ARRAYS)
        page, hpa = self._argument_page(vcpu)
        memory = self.machine.memory
        memory.write(hpa, data)
        for offset, array in arrays:
            memory.write(hpa + offset, array)
        mangle = op.mangle
        # As `_call`, without its call.
        regs = vcpu.regs
        regs[_RAX] = declaration.number
        regs[_RDI] = page if mangle is None or mangle.pointer is None else mangle.pointer & U64
        vcpu.vmcall()
        status = regs[_RAX]
        return (status - (1 << 64) if status >> 63 else status), regs[_RDX]

    def _blob(self, vcpu: VCpu, op: Op) -> tuple[int, int]:
        words = op.values[1]
        page, hpa = self._argument_page(vcpu)
        pointer: int = page
        if isinstance(words, tuple) and not isinstance(words, Ref):
            self.machine.memory.write(hpa, self._array(words, op.kind.fields[1].kind))
        else:
            pointer = self._number(words)
        return self._call(vcpu, self._number(op.values[0]), pointer)

    def _batch(self, index: int, op: Op, vcpu: VCpu, program: Program) -> None:
        """Run a multicall whose entries are the next ops, as far as these are calls of the same vCPU."""
        declaration = op.kind.declaration
        follow = op.kind.follow
        assert declaration is not None
        assert follow is not None
        page, hpa = self._argument_page(vcpu)
        memory = self.machine.memory
        batch: list[tuple[int, Op]] = []
        following = batched(program.ops, index)
        free = ARG_NESTED
        for later in range(index + 1, index + 1 + following):
            entry = program.ops[later]
            nested = entry.kind.declaration
            assert nested is not None
            try:
                data, arrays, end = self._encode(entry, vcpu, free + STRUCT_ROOM)
            except _NoRoom:
                break
            memory.write(hpa + free, data)
            for offset, array in arrays:
                memory.write(hpa + offset, array)
            pointer = page + free
            if entry.mangle is not None and entry.mangle.pointer is not None:
                pointer = Gva(entry.mangle.pointer)
            memory.write(hpa + ARG_ARRAYS + ENTRY.size * len(batch), ENTRY.pack(nested.number, pointer & U64, 0, 0))
            batch.append((later, entry))
            free = end
        self._batched = following
        values = list(op.values)
        values[follow] = page + ARG_ARRAYS
        if batch:
            values[op.kind.index["count"]] = len(batch)
        if op.race is None:
            # One race a batch: the multicall's own, or else the first of its entries', whose fetch is counted over
            # the whole of it.
            raced = next((entry for _, entry in batch if entry.race is not None), None)
            if raced is not None:
                self._arm(index, raced)
        status, result = self._hypercall(vcpu, op._replace(values=tuple(values), race=None))
        cycles = self.machine.clock.cycles
        outcomes = self._trace.outcomes
        outcomes.append(Outcome(index, op.kind.code, Result.OK, status, result, cycles))
        if status:
            # Which entries ran, the guest cannot tell: its array is gone, or was never looked at.
            outcomes += [Outcome(later, entry.kind.code, Result.SKIPPED, 0, 0, cycles) for later, entry in batch]
            return
        # An entry may have put another frame where the page was.
        _, hpa = self._argument_page(vcpu)
        for place, (later, entry) in enumerate(batch):
            _, _, raw, value = ENTRY.unpack(memory.read(hpa + ARG_ARRAYS + ENTRY.size * place, ENTRY.size))
            entry_status = raw - (1 << 64) if raw >> 63 else raw
            if entry_status == 0 and entry.kind.produces is not None:
                self._results[later] = value
            outcomes.append(Outcome(later, entry.kind.code, Result.OK, entry_status, value, cycles))


def _layouts(catalogue: Catalogue, version: int) -> dict[int, Layout]:
    """A guest of an old version that makes a newer call passes the first struct that this call ever had."""
    return {
        kind.code: declaration.layouts[max(version, min(declaration.layouts))]
        for kind in catalogue.kinds
        if (declaration := kind.declaration) is not None
    }
