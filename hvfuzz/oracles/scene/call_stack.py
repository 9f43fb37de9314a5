"""What runs at this moment: the exit, and its hypercalls, each with its copies from and to the guest, and its frames.

    exit --header, body--> call_started --copies, steps, calls within--> call_finished

The struct is copied before the call is announced; and a call within a multicall begins in the middle of one of its
steps. So what was copied since the outer call's step began is the inner call's struct, once an inner call starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.machine.addresses import LARGE_FRAMES, PAGE_SHIFT, WORD
from hvfuzz.machine.cpu.vmcs import Reg, Saved
from hvfuzz.machine.memory import BusError
from hvfuzz.oracles.contract.spec.calls.multicall import ENTRY_SIZE, NO_NUMBER, OUTCOME
from hvfuzz.oracles.scene.running_call import NO_GVA, Bytes, EndedCall, RunningCall

if TYPE_CHECKING:
    from hvfuzz.abi.declaration import Declaration
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.machine.machine import Machine

RDI: Final = int(Reg.RDI)
NO_DOMAIN: Final = -1
"""In place of a domain."""
TABLE: Final = int(FrameState.TABLE)
MSRS: Final = int(Saved.MSRS)


class CallStack:
    """The stack of running calls; the innermost is `current`, and where no call runs, that is `idle`."""

    __snapshot_leaf__ = True
    __slots__ = (
        "_clock",
        "_domains",
        "_read",
        "_work",
        "acting",
        "applied",
        "copying",
        "current",
        "cycles",
        "ended",
        "exiting",
        "idle",
        "left",
        "since",
        "worked",
    )

    def __init__(self, machine: Machine, hypervisor: Hypervisor) -> None:
        self._read: Final = machine.memory.read
        self._clock: Final = machine.clock
        # Not the hypervisor's own array: watching is no work of the host's.
        self._domains: Final = list.copy(hypervisor.domains)
        self._work: Final = hypervisor.host.work
        self.exiting: int = NO_DOMAIN
        """The domain whose exit is handled."""
        self.left: list[Any] = []
        """The registers with which it left, and what else an exit saves."""
        self.cycles: int = 0
        """The clock when the exit began."""
        self.acting: tuple[tuple[int, int], ...] | None = None
        """(domain, index) of the vCPUs that may act in the present op; None: any of them."""
        self.since: int = 0
        """Work of the host, at the last point where it could have been preempted."""
        self.ended: tuple[int, int] = (0, 0)
        """Status and result of the call that ended last: of those in one exit, the outermost."""
        self.idle: RunningCall = RunningCall(None, None, None, [], 0, 0)
        self.current: RunningCall = self.idle
        self.copying: tuple[int, int, int] | None = None
        """(gva, hpa, size) of a write that was announced: the bytes are there at the next moment."""
        self.worked = False
        """A step was applied, or an exit other than a call handled, in the present op."""
        self.applied = False
        """A step was applied since whoever looks at this looked last."""

    @property
    def running(self) -> bool:
        """Whether a call runs."""
        return self.current is not self.idle

    def reset(self) -> None:
        """No call runs, and nothing was copied."""
        self.abandon()
        self.applied = False
        self.exiting = NO_DOMAIN
        self.acting = None
        self.worked = False
        self.ended = (0, 0)

    def abandon(self) -> None:
        """Whatever ran, and was copied outside of a call, is forgotten."""
        self.idle = self.current = RunningCall(None, None, None, [], 0, 0)
        self.copying = None

    def exit_started(self, vcpu: VCpu) -> None:
        """The host begins to work."""
        self.exiting = vcpu.domain
        self.left = left = vcpu.vmcs.saved.copy()
        if left[MSRS]:
            left[MSRS] = left[MSRS].copy()  # The handler could change it in place.
        self.since = self._work.units
        self.cycles = self._clock.cycles
        self.idle.begun = 0

    def started(self, vcpu: VCpu, declaration: Declaration | None, args: Any) -> RunningCall:
        """A call begins."""
        if self.copying is not None:
            self.written()
        outer = self.current
        reads = outer.reads
        start = outer.mark
        if outer is not self.idle:
            start = _struct_start(reads, start)
        struct = reads[start:]
        del reads[start:]
        outer.begun += 1
        version: int = self._domains[vcpu.domain].version
        call = RunningCall(outer, declaration, args, struct, self._clock.cycles, version)
        self.current = call
        return call

    def pointer(self, call: RunningCall) -> int:
        """Where the struct of a call is: in its register, or in the entry of the multicall that makes it."""
        outer = call.outer
        if outer is None or outer is self.idle:
            address: int = self.left[RDI]
            return address
        # The entries as they were copied; each one that is done has had its outcome written.
        entries = b"".join([data for _, data in outer.reads])
        done = sum(len(data) for _, data in outer.writes) // OUTCOME
        return int.from_bytes(entries[ENTRY_SIZE * done + WORD :][:WORD], "little")

    def finished(self, status: int, result: int) -> None:
        """The innermost call is over; `written` was called."""
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
        """A step begins, which may be a call."""
        if self.copying is not None:
            self.written()
        call = self.current
        call.mark = len(call.reads)
        call.applied = self.applied = self.worked = True

    def frame_allocated(self, hfn: int, owner: int, state: int) -> None:
        """A frame was taken; pages that a pool lends to tables were not free before."""
        if state != TABLE:
            self.current.fresh.append(hfn)

    def block_allocated(self, first: int, owner: int, state: int) -> None:
        """A block was taken from the free ones."""
        self.current.fresh += range(first, first + LARGE_FRAMES)

    def guest_copy(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        """Something is about to be copied."""
        if self.copying is not None:
            self.written()
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

    def written(self) -> None:
        """Take note of the bytes of the last write, if they were not looked at yet."""
        if self.copying is None:
            return
        gva, hpa, size = self.copying
        self.copying = None
        try:
            data = self._read(hpa, size)
        except BusError:
            data = b""  # There is nothing, where no memory is.
        if gva == NO_GVA:
            self.current.transfers += (data,)
            self.current.garbled |= data != self.current.moving
        else:
            self.current.writes += ((gva, data),)


def _struct_start(reads: list[Bytes], mark: int) -> int:
    """Where, among the reads from `mark` on, the struct of the call that begins now starts.

    It is what was read last, in one range; what a step read before that belongs to the outer call.
    """
    start = len(reads)
    if start > mark:
        start -= 1
        while start > mark and reads[start - 1][0] + len(reads[start - 1][1]) == reads[start][0]:
            start -= 1
    return start
