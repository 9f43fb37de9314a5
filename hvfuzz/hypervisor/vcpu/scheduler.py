"""Run states of vCPUs (runnable, blocked, polling, halted, stopped), polls with deadlines, and the time slice.

The guest program decides the order in which vCPUs execute; the scheduler decides which of them may. `VCpu.runnable`
holds the state. Deadlines are whole ticks, and are checked at every VM exit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from hvfuzz.abi.limits import TIME_SLICE
from hvfuzz.hypervisor.vcpu.ticks import deadline
from hvfuzz.machine.addresses import U64
from hvfuzz.machine.cpu.processor_state import RunState

if TYPE_CHECKING:
    from hvfuzz.machine.clock import Clock
    from hvfuzz.machine.cpu.vcpu import VCpu


class Poll(NamedTuple):
    """A polling vCPU waits for an event on one of `ports` of its domain, or until cycle `deadline`, a whole tick."""

    ports: tuple[int, ...]
    deadline: int


class Scheduler:
    """Changes the run states of vCPUs; `polls` holds the poll of each polling vCPU, by its id."""

    __slots__ = ("clock", "polls")

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.polls: dict[int, Poll] = {}

    def end_slice(self) -> None:
        """Yield: others run for one time slice."""
        self.clock.cycles += TIME_SLICE

    def sleep(self, cycles: int) -> None:
        """Delay the vCPU by `cycles`, while others run."""
        self.clock.cycles += cycles

    def block(self, vcpu: VCpu) -> None:
        """Stop `vcpu` until an event of its domain or a kick. Replaces a poll, which may precede it in a multicall."""
        self.polls.pop(vcpu.id, None)
        vcpu.runnable = RunState.BLOCKED

    def halt(self, vcpu: VCpu) -> None:
        """Stop `vcpu` until an event of its domain, an interrupt or a kick (HLT)."""
        vcpu.runnable = RunState.HALTED

    def stop(self, vcpu: VCpu) -> None:
        """Stop `vcpu` for ever, after a triple fault."""
        self.polls.pop(vcpu.id, None)
        vcpu.runnable = RunState.STOPPED

    def poll(self, vcpu: VCpu, ports: tuple[int, ...], timeout: int) -> None:
        """Stop `vcpu` until an event on one of `ports`, or for `timeout` cycles; the deadline saturates at 2^64 - 1."""
        self.polls[vcpu.id] = Poll(ports, min(deadline(self.clock.cycles, timeout), U64))
        vcpu.runnable = RunState.POLLING

    def wake(self, vcpu: VCpu) -> bool:
        """Make `vcpu` runnable; False if it already was, or is stopped."""
        if not self.waits(vcpu):
            return False
        vcpu.runnable = RunState.RUNNABLE
        self.polls.pop(vcpu.id, None)
        return True

    def waits(self, vcpu: VCpu) -> bool:
        """Whether `vcpu` waits for something, so that `wake` has an effect."""
        return vcpu.runnable not in (RunState.RUNNABLE, RunState.STOPPED)

    def event(self, vcpus: Sequence[VCpu], port: int) -> None:
        """Deliver an event on `port`: wake the lowest-numbered of the domain's `vcpus` that waits for it."""
        for vcpu in vcpus:
            # Without HALTED, a guest that halts until its next event would sleep for ever.
            if vcpu.runnable in (RunState.BLOCKED, RunState.HALTED) or self.polls_on(vcpu, port):
                self.wake(vcpu)
                return

    def port_closed(self, vcpus: Sequence[VCpu], port: int) -> None:
        """Wake every vCPU that polls on `port`, which no longer receives events."""
        for vcpu in vcpus:
            if self.polls_on(vcpu, port):
                self.wake(vcpu)

    def polls_on(self, vcpu: VCpu, port: int) -> bool:
        """Whether `vcpu` polls on `port`."""
        poll = self.polls.get(vcpu.id)
        return poll is not None and port in poll.ports

    def expire(self, vcpus: Sequence[VCpu]) -> None:
        """Wake the vCPUs whose deadline has passed; `vcpus` are all vCPUs of the machine, indexed by id."""
        now = self.clock.cycles
        for vcpu_id in [vcpu_id for vcpu_id, poll in self.polls.items() if poll.deadline <= now]:
            self.wake(vcpus[vcpu_id])
