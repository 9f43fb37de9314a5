"""The exit that is being handled and the stack of its hypercalls, with what each of them copied and allocated.

    exit --header, body--> call_started --copies, steps, calls within--> call_finished

The hypervisor copies the argument struct before it announces the call, and a call within a multicall starts in the
middle of a step of the multicall. So when an inner call starts, the copies since the outer step began are its struct.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.machine.addresses import LARGE_FRAMES, PAGE_SHIFT, WORD
from hvfuzz.machine.cpu.registers import Reg, Saved
from hvfuzz.machine.physical_memory import BusError
from hvfuzz.oracles.contract.spec.calls.multicall import ENTRY_SIZE, NO_NUMBER, OUTCOME
from hvfuzz.oracles.scene.exit_fields import NO_EXIT, ExitFields, exit_fields
from hvfuzz.oracles.scene.running_call import NO_GVA, Bytes, EndedCall, RunningCall

if TYPE_CHECKING:
    from hvfuzz.abi.declaration import Declaration
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.machine.machine import Machine

RDI: Final = int(Reg.RDI)
NO_DOMAIN: Final = -1
"""Sentinel: no domain."""
TABLE: Final = int(FrameState.TABLE)
MSRS: Final = int(Saved.MSRS)


class CallStack:
    """The stack of running calls. `current` is the innermost one, or `idle` if no call runs.

    `idle` also collects what an exit other than a hypercall copies.
    """

    __snapshot_leaf__ = True
    __slots__ = (
        "_clock",
        "_domains",
        "_races_before",
        "_read",
        "_shortage",
        "_work",
        "acting",
        "applied",
        "awake",
        "copying",
        "current",
        "cycles",
        "ended",
        "exit",
        "exiting",
        "flushes",
        "idle",
        "left",
        "outside",
        "principal",
        "raced",
        "races",
        "racing",
        "since",
        "worked",
    )

    def __init__(self, machine: Machine, hypervisor: Hypervisor) -> None:
        self._read: Final = machine.memory.read
        self._clock: Final = machine.clock
        self._shortage: Final = machine.shortage
        # A copy, because an access to the hypervisor's own array counts as work of the host.
        self._domains: Final = list.copy(hypervisor.domains)
        self._work: Final = hypervisor.host.work
        self.exiting: int = NO_DOMAIN
        """The domain whose exit is being handled, or NO_DOMAIN."""
        self.exit: ExitFields = NO_EXIT
        """The exit information, as it was before the hypervisor handled the exit."""
        self.principal: VCpu | None = None
        """The vCPU whose exit is being handled, as the machine tells it: on its behalf the hypervisor acts."""
        self.left: list[Any] = []
        """What the exit saved (`vmcs.saved`), as it was before the hypervisor handled it."""
        self.cycles: int = 0
        """The clock at the start of the exit."""
        self.races: int = 0
        """Races that have begun in this run."""
        self._races_before = 0
        """Races that had begun when the present exit did."""
        self.racing: int = 0
        """The clock when the present race began; 0 outside of a race."""
        self.awake = False
        """A device acts by itself: not on behalf of the exit that is being handled."""
        self.raced: int = 0
        """Cycles that have passed in races in the middle of the present exit."""
        self.acting: tuple[int, ...] | None = None
        """Ids of the vCPUs that act in the present op, those that race it included; None: any of them."""
        self.flushes: int = 0
        """Flushes of whole address spaces in the present exit; counted in audited runs only."""
        self.since: int = 0
        """Work units of the host at its last preemption point."""
        self.ended: tuple[int, int] = (0, 0)
        """Status and result of the call that ended last; after an exit, of its outermost call."""
        self.idle: RunningCall = RunningCall(None, None, None, [], 0, 0)
        self.current: RunningCall = self.idle
        self.outside: RunningCall = self.idle
        """What the present exit has copied outside of a call, also when an oracle has abandoned it."""
        self.copying: tuple[int, int, int] | None = None
        """(gva, hpa, size) of an announced write whose bytes are not in memory yet."""
        self.worked = False
        """A step was applied, or an exit other than a hypercall was handled, in the present op."""
        self.applied = False
        """A step was applied since the last update of the shadow, which clears this."""

    @property
    def running(self) -> bool:
        """Whether a call is running."""
        return self.current is not self.idle

    @property
    def interrupted(self) -> bool:
        """Whether a race has acted in the middle of the present exit."""
        return self.races != self._races_before

    @property
    def read_at(self) -> int:
        """The clock when an exit other than a hypercall reads it: that at its start, and what has passed in races."""
        return self.cycles + self.raced

    def reset(self) -> None:
        """Return to a state without exit, call or copies."""
        self.abandon()
        self.applied = False
        self.exit_ended()
        self.acting = None
        self.worked = False
        self.races = self._races_before = self.racing = self.raced = 0
        self.awake = False
        self.ended = (0, 0)
        self.flushes = 0
        self.exit = NO_EXIT
        self.outside = self.idle

    def abandon(self) -> None:
        """Forget the running calls, and what was copied outside of a call."""
        self.idle = self.current = RunningCall(None, None, None, [], 0, 0)
        self.copying = None

    def race_started(self, vcpu: VCpu) -> None:
        """Note that another vCPU acts in the op."""
        self.races += 1
        self.racing = self._clock.cycles
        if self.acting is not None:
            self.acting += (vcpu.id,)

    def race_finished(self, vcpu: VCpu) -> None:
        """Note how long it took."""
        self.raced += self._clock.cycles - self.racing
        self.racing = 0

    def device_started(self, number: int) -> None:
        """Note that what the device does belongs to no exit."""
        self.awake = True

    def device_finished(self, number: int) -> None:
        """It has acted."""
        self.awake = False

    def exit_started(self, vcpu: VCpu) -> None:
        """Note whose exit it is, and the state at its start."""
        self.principal = vcpu
        self.exiting = vcpu.domain
        self.exit = exit_fields(vcpu.vmcs)
        self.left = left = vcpu.vmcs.saved.copy()
        if left[MSRS]:
            left[MSRS] = left[MSRS].copy()  # The handler could change it in place.
        self.since = self._work.units
        self.cycles = self._clock.cycles
        self.raced = 0
        self._races_before = self.races
        if self.idle.reads or self.idle.writes:
            self.abandon()  # An exit before left them.
        self.outside = self.idle
        self.idle.begun = 0

    def exit_ended(self) -> None:
        """No exit is being handled any more."""
        self.principal = None
        self.exiting = NO_DOMAIN

    def started(self, vcpu: VCpu, declaration: Declaration | None, args: Any) -> RunningCall:
        """Push a call that starts; its struct was already copied."""
        if self.copying is not None:
            self.guest_written()
        outer = self.current
        reads = outer.reads
        start = outer.mark
        if outer is not self.idle:
            start = _struct_start(reads, start)
        struct = reads[start:]
        del reads[start:]
        outer.begun += 1
        version: int = self._domains[vcpu.domain].version
        call = RunningCall(outer, declaration, args, struct, self._clock.cycles, version, self._shortage.requests)
        self.current = call
        return call

    def pointer(self, call: RunningCall) -> int:
        """Address of the struct of a call: from RDI, or from the entry of the multicall that makes it."""
        outer = call.outer
        if outer is None or outer is self.idle:
            address: int = self.left[RDI]
            return address
        # The entries as they were copied. For each finished entry its outcome was written.
        entries = b"".join([data for _, data in outer.reads])
        done = sum(len(data) for _, data in outer.writes) // OUTCOME
        return int.from_bytes(entries[ENTRY_SIZE * done + WORD :][:WORD], "little")

    def finished(self, status: int, result: int) -> None:
        """Pop the innermost call. `guest_written` must have been called before."""
        self.ended = (status, result)
        call = self.current
        outer = call.outer
        if outer is None:
            return
        outer.mark = len(outer.reads)
        if outer is not self.idle:
            number = NO_NUMBER if call.declaration is None else call.declaration.number
            outer.nested += (EndedCall(number, status, result),)
        self.current = outer

    def step(self, step: Any) -> None:
        """A step is about to be applied. It may be a call within a multicall."""
        if self.copying is not None:
            self.guest_written()
        call = self.current
        call.mark = len(call.reads)
        call.applied = self.applied = self.worked = True

    def frame_allocated(self, hfn: int, owner: int, state: int) -> None:
        """Note the frame. Table pages come from a pool and were not free before."""
        if state != TABLE:
            self.current.fresh.append(hfn)
        else:
            self.current.tables += 1

    def block_allocated(self, first: int, owner: int, state: int) -> None:
        """Note all frames of the block."""
        self.current.fresh += range(first, first + LARGE_FRAMES)

    def guest_copy(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        """Note the copy, with the bytes that it reads."""
        if self.copying is not None:
            self.guest_written()
        if write:
            self.copying = (gva, hpa, size)
            self.current.targets += (hpa >> PAGE_SHIFT,)
        else:
            try:
                data = self._read(hpa, size)
            except BusError:
                data = b""
            if gva != NO_GVA:
                self.current.reads.append((gva, data))
            else:
                self.current.moving = data
        if gva == NO_GVA:
            self.current.touched.append((write, hpa, size))

    def guest_written(self) -> None:
        """Note the bytes of the announced write, at once: a later walk may set flags in them, a device change them.

        A faulty hypervisor may not tell that a write is done. Then the next event comes here, as does the exit's end.
        """
        if self.copying is None:
            return
        gva, hpa, size = self.copying
        self.copying = None
        try:
            data = self._read(hpa, size)
        except BusError:
            data = b""  # no memory there
        if gva == NO_GVA:
            self.current.transfers += (data,)
            self.current.garbled |= data != self.current.moving
        else:
            self.current.writes += ((gva, data),)


def _struct_start(reads: list[Bytes], mark: int) -> int:
    """Index, in `reads` from `mark` on, of the first piece of the struct of the call that starts now.

    The struct is the last contiguous range that was read; earlier reads of the step belong to the outer call.
    """
    start = len(reads)
    if start > mark:
        start -= 1
        while start > mark and reads[start - 1][0] + len(reads[start - 1][1]) == reads[start][0]:
            start -= 1
    return start
