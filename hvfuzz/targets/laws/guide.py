"""Records the first run of a variant op by op, and leads the second along it: the clock, and what parts.

The laws say nothing of cycles, unless only names differ. So in the second run each op, each of its VM exits and each of
its calls begins when its counterpart in the first run did: what reads the clock reads the same. An exit without a
counterpart begins with the last one, so that it meets no deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from hvfuzz.guest.program.program import Op, Program
from hvfuzz.guest.run.trace import Outcome
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.oracles.framework.finding import Finding
from hvfuzz.oracles.noninterference.observation import VcpuState, state_of
from hvfuzz.oracles.noninterference.partings import of_states, outcome_text
from hvfuzz.targets.laws.exemptions import BATCH, Exemption
from hvfuzz.targets.laws.variant import Variant
from hvfuzz.targets.run_observer import RunObserver


class Moment(NamedTuple):
    """One op of the first run."""

    start: int
    """Virtual cycles when it began."""
    exits: tuple[int, ...]
    calls: tuple[int, ...]
    """When each of its exits and calls began; a multicall is no call here, its entries are."""
    outcomes: tuple[Outcome, ...]
    states: tuple[VcpuState, ...]
    """Of all vCPUs, after it."""


class Parted(NamedTuple):
    """Where the second run parts from the first: the op that is named, and what there is in each."""

    op: int
    """Number in the second program."""
    first: str
    second: str


class Guide(RunObserver):
    """Observes the runs of one target. `record` or `follow` says what the next run is."""

    def __init__(self) -> None:
        self.systems: Final[dict[str, Hypervisor]] = {}
        self.variant: Variant | None = None
        self.leader: Guide | None = None
        self.moments: dict[int, Moment] = {}
        self.parted: Parted | None = None
        self.excused: Exemption | None = None
        """Why the runs may differ from here on."""
        self.after_op: Callable[[int], None] | None = None
        """Called after each op that both runs have, with its number in the second program."""
        self.succeeded: set[int] = set()
        """Numbers of the inserted ops that have succeeded in the run."""
        self.named_in = -1
        """The host frame of the argument page, while a call runs whose struct there names a domain."""
        self.index = 0
        """The present op."""
        self._world = ""
        self._start = self._last_exit = 0
        self._exits: list[int] = []
        self._calls: list[int] = []

    @property
    def hypervisor(self) -> Hypervisor:
        """The hypervisor of the run."""
        return self.systems[self._world]

    @property
    def second(self) -> bool:
        """Whether the run is a second one."""
        return self.leader is not None

    def run_next(self, world: str, variant: Variant | None, leader: Guide | None) -> None:
        """The next run is the first of `variant`, or the second, after that which `leader` recorded; None: no pair."""
        self._world, self.variant, self.leader = world, variant, leader

    def counterpart(self, index: int) -> Moment | None:
        """The moment of the first run that op number `index` of the second must repeat."""
        if self.leader is None or self.variant is None:
            return None
        return self.leader.moments.get(self.variant.origin[index])

    def begin(self) -> None:
        """See `RunObserver.begin`."""
        self.moments = {}
        self.parted = self.excused = None
        self.succeeded = set()
        self.named_in = -1
        variant = self.variant
        if self.second and variant is not None and variant.quota is not None:
            self.hypervisor.preemption_quota = variant.quota
        self._last_exit = self.hypervisor.machine.clock.cycles

    def op_started(self, index: int, op: Op) -> None:
        """See `RunObserver.op_started`."""
        clock = self.hypervisor.machine.clock
        moment = self.counterpart(index)
        if self._aligned:
            clock.cycles = self._last_exit if moment is None else moment.start
        self.index, self._start = index, clock.cycles
        self._exits, self._calls = [], []

    @property
    def _aligned(self) -> bool:
        return self.second and self.variant is not None and not self.variant.names

    def exit_started(self, vcpu: VCpu) -> None:
        """See `RunObserver.exit_started`."""
        clock = vcpu.machine.clock
        if self._aligned:
            moment = self.counterpart(self.index)
            if moment is not None and moment.exits:
                self._last_exit = moment.exits[min(len(self._exits), len(moment.exits) - 1)]
            clock.cycles = self._last_exit
        self._exits.append(clock.cycles)
        self._last_exit = clock.cycles

    def call_started(self, vcpu: VCpu, declaration: Any, args: Any) -> None:
        """See `Observer.call_started`."""
        if declaration is not None and declaration.name == BATCH:
            return
        clock = vcpu.machine.clock
        moment = self.counterpart(self.index) if self._aligned else None
        if moment is not None and len(self._calls) < len(moment.calls):
            clock.cycles = moment.calls[len(self._calls)]
        self._calls.append(clock.cycles)

    def guest_copy(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        """See `Observer.guest_copy`; an argument that the hypervisor fetches has an address."""
        if gva < 0 and not write and hpa >> PAGE_SHIFT == self.named_in:
            self.excused = Exemption.NAME_IN_STRUCT

    def op_finished(self, program: Program, outcomes: Sequence[Outcome], findings: Sequence[Finding]) -> None:
        """See `RunObserver.op_finished`."""
        if not self.second:
            self.moments[self.index] = self._moment(outcomes)
            if self.after_op is not None:
                self.after_op(self.index)
        elif self.excused is None and self.parted is None:
            moment = self.counterpart(self.index)
            if moment is not None:
                self._compare(program, moment, self._moment(outcomes))
        if self.second and self.after_op is not None and self.counterpart(self.index) is not None:
            self.after_op(self.index)

    def refused_inverse(self, index: int, text: str) -> None:
        """Op number `index`, which undoes one that succeeded, was refused."""
        if self.parted is None:
            self.parted = Parted(index, "the call can be undone", text)

    def _moment(self, outcomes: Sequence[Outcome]) -> Moment:
        hv = self.hypervisor
        return Moment(
            self._start,
            tuple(self._exits),
            tuple(self._calls),
            tuple(outcomes),
            tuple(map(state_of, hv.machine.vcpus)),
        )

    def _compare(self, program: Program, one: Moment, other: Moment) -> None:
        variant = self.variant
        assert variant is not None
        if len(one.outcomes) != len(other.outcomes):
            self.parted = Parted(self.index, f"{len(one.outcomes)} outcomes", f"{len(other.outcomes)}")
            return
        for mine, its in zip(one.outcomes, other.outcomes, strict=True):
            last = None if variant.names else 5
            if mine[1:last] != its[1:last]:
                late = mine[1:5] == its[1:5]
                texts = [outcome_text(each) + f" at {each.cycles}" * late for each in (mine, its)]
                self.parted = Parted(its.op, *texts)
                return
        states = one.states
        if variant.names:
            states = self._renamed(states)
        if states != other.states:
            place = next(at for at, (mine, its) in enumerate(zip(states, other.states, strict=True)) if mine != its)
            vcpu = self.hypervisor.machine.vcpus[place]
            parting = of_states(self.index, vcpu.domain, vcpu.index, states[place], other.states[place])
            self.parted = Parted(self.index, f"dom{vcpu.domain}'s {parting.first}", parting.second)

    def _renamed(self, states: tuple[VcpuState, ...]) -> tuple[VcpuState, ...]:
        """The states of the first run in the order of the second's vCPUs."""
        leader, variant = self.leader, self.variant
        assert leader is not None
        assert variant is not None
        vcpus = leader.hypervisor.machine.vcpus
        places = {(variant.names.get(vcpu.domain, vcpu.domain), vcpu.index): vcpu.id for vcpu in vcpus}
        return tuple(states[places[vcpu.domain, vcpu.index]] for vcpu in self.hypervisor.machine.vcpus)


def difference(one: object, other: object) -> tuple[str, str]:
    """The first parts of two nested tuples that differ, as text with their place."""
    place = ""
    while isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        at = next(at for at, (mine, its) in enumerate(zip(one, other, strict=True)) if mine != its)
        names = getattr(one, "_fields", None)
        place += f"{names[at]} " if names else f"[{at}] "
        one, other = one[at], other[at]
    if isinstance(one, bytes) and isinstance(other, bytes) and len(one) == len(other):
        at = next(at for at, (mine, its) in enumerate(zip(one, other, strict=True)) if mine != its)
        return f"{place}byte {at:#x} is {one[at]:#x}", f"{other[at]:#x}"
    return f"{place}{one!r:.200}", f"{other!r:.200}"
