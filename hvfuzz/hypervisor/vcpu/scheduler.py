"""Which virtual CPUs run: runnable, blocked, polling, halted, stopped; poll lists with deadlines, the time slice.

The order in which vCPUs execute is the guest program's; the scheduler says which of them may.  `VCpu.runnable` holds
the state.  Deadlines are looked at when the hypervisor has control, at every VM exit: time does not pass between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from hvfuzz.abi.limits import TIME_SLICE
from hvfuzz.machine.addresses import U64
from hvfuzz.machine.cpu.processor_state import RunState

if TYPE_CHECKING:
    from hvfuzz.machine.clock import Clock
    from hvfuzz.machine.cpu.vcpu import VCpu


class Poll(NamedTuple):
    """What a polling vCPU waits for: an event on one of `ports` of its domain, or the `deadline` in cycles."""

    ports: tuple[int, ...]
    deadline: int


class Scheduler:
    """The run states of all vCPUs; `polls` has the entry of each polling one, by its id."""

    __slots__ = ("clock", "polls")

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.polls: dict[int, Poll] = {}

    def end_slice(self) -> None:
        """The vCPU gives up the rest of its slice: the others run for one."""
        self.clock.cycles += TIME_SLICE

    def sleep(self, cycles: int) -> None:
        """The vCPU waits for that long: the others run."""
        self.clock.cycles += cycles

    def block(self, vcpu: VCpu) -> None:
        """Until an event of its domain, or a kick; in a batch this may follow a poll, which it then replaces."""
        self.polls.pop(vcpu.id, None)
        vcpu.runnable = RunState.BLOCKED

    def halt(self, vcpu: VCpu) -> None:
        """Until a kick."""
        vcpu.runnable = RunState.HALTED

    def stop(self, vcpu: VCpu) -> None:
        """For ever: its guest has no way to go on."""
        self.polls.pop(vcpu.id, None)
        vcpu.runnable = RunState.STOPPED

    def poll(self, vcpu: VCpu, ports: tuple[int, ...], timeout: int) -> None:
        """Until an event on one of the ports, or for `timeout` cycles; a deadline beyond the clock never comes."""
        self.polls[vcpu.id] = Poll(ports, min(self.clock.cycles + timeout, U64))
        vcpu.runnable = RunState.POLLING

    def wake(self, vcpu: VCpu) -> bool:
        """Make `vcpu` runnable; False if it was, or never will be."""
        if not self.waits(vcpu):
            return False
        vcpu.runnable = RunState.RUNNABLE
        self.polls.pop(vcpu.id, None)
        return True

    def waits(self, vcpu: VCpu) -> bool:
        """Whether `vcpu` can be made runnable."""
        return vcpu.runnable not in (RunState.RUNNABLE, RunState.STOPPED)

    def event(self, vcpus: Sequence[VCpu], port: int) -> None:
        """An event came in on `port` of a domain: wake the lowest numbered of its `vcpus` that waits for that."""
        for vcpu in vcpus:
            if vcpu.runnable == RunState.BLOCKED or self.polls_on(vcpu, port):
                self.wake(vcpu)
                return

    def port_closed(self, vcpus: Sequence[VCpu], port: int) -> None:
        """Nothing will come in on `port` any more: every poll on it goes on."""
        for vcpu in vcpus:
            if self.polls_on(vcpu, port):
                self.wake(vcpu)

    def polls_on(self, vcpu: VCpu, port: int) -> bool:
        """Whether `vcpu` waits for `port` in a poll."""
        poll = self.polls.get(vcpu.id)
        return poll is not None and port in poll.ports

    def expire(self, vcpus: Sequence[VCpu]) -> None:
        """Wake those whose deadline has passed; `vcpus` are all of the machine, indexed by id."""
        now = self.clock.cycles
        for vcpu_id in [vcpu_id for vcpu_id, poll in self.polls.items() if poll.deadline <= now]:
            self.wake(vcpus[vcpu_id])
