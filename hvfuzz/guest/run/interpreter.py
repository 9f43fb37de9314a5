"""Runs a program on a booted machine: each op is executed by its vCPU, as the guest's own code would."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Final

from hvfuzz.abi.boot import ARG_ARRAYS, ARG_NESTED, World
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import Op, Program, Ref, batched
from hvfuzz.guest.run.adversaries import ADVERSARIES
from hvfuzz.guest.run.armed_race import ArmedRace
from hvfuzz.guest.run.call_arguments import CallArguments, NoRoom
from hvfuzz.guest.run.instructions import INSTRUCTIONS, Unreachable
from hvfuzz.guest.run.outside_world import OutsideWorld, Waking
from hvfuzz.guest.run.trace import Outcome, Result, Trace
from hvfuzz.machine.addresses import U64, Gva
from hvfuzz.machine.cpu.faults import GuestFault
from hvfuzz.machine.cpu.registers import Reg
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.machine import Machine

WORK_BUDGET: Final = 1 << 32
"""Virtual cycles after which a program is stopped."""
ENTRY: Final = struct.Struct("<QQQQ")
"""A multicall entry: number, address of the struct, status, result."""
STRUCT_ROOM: Final = 0x80
"""Bytes of the argument page kept for the struct of each batched call; its arrays follow."""
_RAX: Final = int(Reg.RAX)
_RDX: Final = int(Reg.RDX)
_RDI: Final = int(Reg.RDI)
_OK: Final = Result.OK
_new: Final = tuple.__new__  # Without the constructor of Outcome, a run without oracles takes 0.7 % less.


class HostStopped(Exception):
    """Raised by the exit handler when the host dies in it: the program ends."""


class HostBusy(Exception):
    """Raised by the exit handler while it handles the exit of another vCPU: the op is performed after that exit."""


class Interpreter:
    """Executes programs on `machine`, booted as `world`. Its exit handler may raise HostStopped and HostBusy."""

    __slots__ = (
        "_actors",
        "_arguments",
        "_batched",
        "_execute",
        "_late",
        "_outside",
        "_race",
        "_racing",
        "_trace",
        "machine",
    )

    def __init__(self, machine: Machine, catalogue: Catalogue, world: World) -> None:
        self.machine: Final = machine
        self._arguments: Final = CallArguments(machine, catalogue, world)
        self._actors: Final = {(vcpu.domain, vcpu.index): vcpu for vcpu in machine.vcpus}
        self._late: list[tuple[int, Op]] = []
        """Racing ops that found the host busy, with the index of the raced op."""
        self._batched = 0
        """Ops after the current one that its multicall took as entries."""
        self._racing: Callable[[VCpu, bool], None] | None = None
        self._race: Final = ArmedRace(machine)
        self._outside: Final = OutsideWorld(machine)
        self._trace = Trace()
        self._execute: Final = {catalogue.by_name[name].code: run for name, run in INSTRUCTIONS.items()}
        self._execute[catalogue.by_name["dma"].code] = self._outside.dma
        self._execute[catalogue.by_name["timer"].code] = self._outside.timer
        for name, act in ADVERSARIES.items():
            self._execute[catalogue.by_name[name].code] = partial(act, machine)

    def run(
        self,
        program: Program,
        before: Callable[[int, Op], None] | None = None,
        after: Callable[[int, Op, list[Outcome]], None] | None = None,
        racing: Callable[[VCpu, bool], None] | None = None,
        waking: Waking | None = None,
    ) -> Trace:
        """Run `program` from the machine's present state; `before` and `after` are called around each op.

        `after` gets the outcomes that the op added: its own, and those of ops that raced it or were batched by it.
        `racing` is called around each op that races another one, with its vCPU and whether it begins. `waking` is
        called around what a device does by itself, with its number and whether it begins.
        """
        try:
            self._racing, self._outside.waking = racing, waking
            return self._run(program, before, after)
        finally:
            # Whatever ended the run: memory must not keep the hooks of a race.
            self._race.disarm()
            self.machine.fetches.reset()
            self.machine.shortage.disarm()
            self._racing = self._outside.waking = None

    def _run(
        self,
        program: Program,
        before: Callable[[int, Op], None] | None,
        after: Callable[[int, Op, list[Outcome]], None] | None,
    ) -> Trace:
        self._trace = trace = Trace()
        ops = program.ops
        outcomes = trace.outcomes
        self._arguments.results = [0] * len(ops)
        self._late = []
        fetches, clock, shortage = self.machine.fetches, self.machine.clock, self.machine.shortage
        limit = clock.cycles + WORK_BUDGET
        index = first = 0
        try:
            while index < len(ops):
                op = ops[index]
                first = len(outcomes)
                if before is not None:
                    before(index, op)
                fetches.reset()
                if op.race is not None:
                    self._arm(index, op)
                self._batched = 0
                self._perform(index, op, program)
                self._race.disarm()
                while self._late:
                    fetches.reset()
                    self._perform_race(*self._late.pop(0))
                if shortage.at >= 0 or shortage.waiting >= 0:
                    shortage.op_ended()
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
        return trace

    def _arm(self, index: int, op: Op) -> None:
        """Arm the race of `op`, the op with this index or an entry of its batch.

        An op that exits while the exit of the raced op is handled waits for the end of that exit, and is performed
        then. So it is at a preemption point, too: the host's lock is held over the whole exit, and a call that is
        preempted goes on within it.
        """

        def act(other: Op) -> None:
            try:
                self._perform_race(index, other)
            except HostBusy:
                self._late.append((index, other))

        self._race.arm(op, act)

    def _perform_race(self, index: int, op: Op) -> None:
        """Perform a racing op, and tell when it begins and ends. HostBusy leaves it undone."""
        vcpu = self._actors.get(op.actor)
        racing = self._racing
        if racing is None or vcpu is None:
            self._perform(index, op, None)
            return
        racing(vcpu, True)
        try:
            self._perform(index, op, None)
        finally:
            racing(vcpu, False)

    def _perform(self, index: int, op: Op, program: Program | None) -> None:
        """Execute one op on its vCPU and record the outcome. Without a `program`, a multicall batches nothing."""
        kind, actor, values, _, _ = op
        vcpu = self._actors.get(actor)
        how, status, result = _OK, 0, 0
        if vcpu is None or (vcpu.runnable and kind.executed):
            how = Result.SKIPPED
        else:
            arguments = self._arguments
            try:
                if kind.follow is not None and values[kind.follow] == 0 and program is not None:
                    self._batch(index, op, vcpu, program)
                    return
                if kind.declaration is not None:
                    status, result = self._hypercall(vcpu, op)
                    if status == 0 and program is not None and kind.produces is not None:
                        arguments.results[index] = result
                elif kind.name == "blob":
                    status, result = self._blob(vcpu, op)
                elif kind.name == "vmcall":
                    status, result = self._call(vcpu, arguments.number(values[0]), arguments.number(values[1]))
                else:
                    numbers = [value if type(value) is int else arguments.number(value) for value in values]
                    result = self._execute[kind.code](vcpu, numbers) or 0
            except GuestFault as fault:
                how, status, result = Result.FAULT, fault.vector, fault.error
            except (Unreachable, NoRoom):
                how = Result.SKIPPED
        outcome = _new(Outcome, (index, kind.code, how, status, result, self.machine.clock.cycles))
        self._trace.outcomes.append(outcome)

    def _call(self, vcpu: VCpu, number: int, pointer: int) -> tuple[int, int]:
        """Execute VMCALL with these values of RAX and RDI; the status and the result."""
        regs = vcpu.regs
        regs[_RAX] = number & U64
        regs[_RDI] = pointer & U64
        vcpu.vmcall()
        status = regs[_RAX]
        return (status - (1 << 64) if status >> 63 else status), regs[_RDX]

    def _hypercall(self, vcpu: VCpu, op: Op) -> tuple[int, int]:
        declaration = op.kind.declaration
        assert declaration is not None
        pointer: int = self._arguments.write(op, vcpu)
        mangle = op.mangle
        if mangle is not None and mangle.pointer is not None:
            pointer = mangle.pointer
        return self._call(vcpu, declaration.number, pointer)

    def _blob(self, vcpu: VCpu, op: Op) -> tuple[int, int]:
        """Make a call whose struct is raw words, or, for a pointer, whatever is there."""
        arguments = self._arguments
        words = op.values[1]
        page, hpa = arguments.page(vcpu)
        pointer: int = page
        if isinstance(words, tuple) and not isinstance(words, Ref):
            self.machine.memory.write(hpa, arguments.array(words, op.kind.fields[1].kind))
        else:
            pointer = arguments.number(words)
        return self._call(vcpu, arguments.number(op.values[0]), pointer)

    def _make_batch(self, index: int, op: Op, vcpu: VCpu) -> tuple[int, int]:
        """Make op number `index`, a multicall whose entries are in the argument page; the status and the result."""
        return self._hypercall(vcpu, op)

    def _batch(self, index: int, op: Op, vcpu: VCpu, program: Program) -> None:
        """Run a multicall whose entries are the ops that follow (see `batched`), as many as fit the argument page."""
        declaration = op.kind.declaration
        follow = op.kind.follow
        assert declaration is not None
        assert follow is not None
        arguments = self._arguments
        page, hpa = arguments.page(vcpu)
        memory = self.machine.memory
        batch: list[tuple[int, Op]] = []
        following = batched(program.ops, index)
        free = ARG_NESTED
        for later in range(index + 1, index + 1 + following):
            entry = program.ops[later]
            nested = entry.kind.declaration
            assert nested is not None
            try:
                data, arrays, end = arguments.encode(entry, vcpu, free + STRUCT_ROOM)
            except NoRoom:
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
            # A batch has one race: the multicall's, or else that of the first entry with one. Points are counted over
            # the whole multicall.
            raced = next((entry for _, entry in batch if entry.race is not None), None)
            if raced is not None:
                self._arm(index, raced)
        status, result = self._make_batch(index, op._replace(values=tuple(values), race=None), vcpu)
        cycles = self.machine.clock.cycles
        outcomes = self._trace.outcomes
        outcomes.append(Outcome(index, op.kind.code, Result.OK, status, result, cycles))
        if status:
            # The guest cannot tell which entries ran: the call failed as a whole and left no valid status array.
            outcomes += [Outcome(later, entry.kind.code, Result.SKIPPED, 0, 0, cycles) for later, entry in batch]
            return
        # An entry may have changed the frame behind the argument page.
        _, hpa = arguments.page(vcpu)
        for place, (later, entry) in enumerate(batch):
            _, _, raw, value = ENTRY.unpack(memory.read(hpa + ARG_ARRAYS + ENTRY.size * place, ENTRY.size))
            entry_status = raw - (1 << 64) if raw >> 63 else raw
            if entry_status == 0 and entry.kind.produces is not None:
                arguments.results[later] = value
            outcomes.append(Outcome(later, entry.kind.code, Result.OK, entry_status, value, cycles))
