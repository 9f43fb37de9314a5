"""Records the first run of a pair op by op, and leads the second along it: the clock, the deadlines, the comparison.

In the second run each op begins when it began in the first, moved by what the contract's rounding hides. An op that is
left out still takes its time, and its VM exits still meet deadlines, as those of any vCPU do. So what parts the runs is
no declared channel.
"""

from collections.abc import Sequence
from typing import Any, Final

from hvfuzz.abi.limits import RANGE
from hvfuzz.abi.status import Status
from hvfuzz.guest.program.program import Op, Program
from hvfuzz.guest.run.trace import Outcome, Result
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.devices import timer
from hvfuzz.hypervisor.vcpu import apic_timer
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.oracles.framework.finding import Finding
from hvfuzz.oracles.noninterference.channels import Channel
from hvfuzz.oracles.noninterference.observation import Moment, digest, state_of
from hvfuzz.oracles.noninterference.partings import Parting, compare
from hvfuzz.oracles.noninterference.roundings import ReadCount, Timing, allowed_shift, sees_grains
from hvfuzz.targets.pairs.plans import Plan
from hvfuzz.targets.run_observer import RunObserver


class Director(RunObserver):
    """Records a run in `moments`, or leads it by `plan`, and says in `parting` where it parts from the first.

    Unlike other observers, it changes the run: it sets the clock between two ops. `systems` has the booted system of
    each world, by name; `world` names that of the run. With `digested`, a check sum of all that this domain has is
    taken after each op.
    """

    def __init__(self, declared: frozenset[Channel]) -> None:
        self.systems: Final[dict[str, Hypervisor]] = {}
        self.world = ""
        self.moments: dict[int, Moment] = {}
        self.digests: dict[int, int] = {}
        self.digested: int | None = None
        self.plan: Plan | None = None
        self.first: dict[int, Moment] = {}
        """The moments of the run that `plan` follows."""
        self.parting: Parting | None = None
        self._declared: Final = declared
        self._reads = ReadCount()
        self._index = self._start = 0
        self._exits: list[int] = []
        self._short = self._joined = False

    @property
    def hypervisor(self) -> Hypervisor:
        """The hypervisor of the run."""
        return self.systems[self.world]

    def record(self, world: str, digested: int | None = None) -> None:
        """The next run is a first run."""
        self.world, self.plan, self.digested = world, None, digested

    def follow(self, world: str, plan: Plan, first: dict[int, Moment], digested: int | None = None) -> None:
        """The next run is a second run."""
        self.world, self.plan, self.first, self.digested = world, plan, first, digested

    def begin(self) -> None:
        """See `RunObserver.begin`."""
        self.moments = {}
        self.digests = {}
        self.parting = None
        self._reads = ReadCount()

    def op_started(self, index: int, op: Op) -> None:
        """See `RunObserver.op_started`."""
        clock = self.hypervisor.machine.clock
        plan, moment = self.plan, self.first.get(index)
        if plan is not None and moment is not None and index not in plan.left_out:
            clock.cycles = moment.timing.start
            if plan.moved and index <= plan.kept[op.actor.domain]:
                used_up = self._reads.used_up(op, moment.timing)
                clock.cycles += allowed_shift(plan.program, index, moment.timing, used_up, plan.late, self._declared)
        self._index, self._start = index, clock.cycles
        self._exits = []
        self._short = self._joined = False

    def exit_started(self, vcpu: VCpu) -> None:
        """See `RunObserver.exit_started`."""
        self._exits.append(vcpu.machine.clock.cycles)

    def call_finished(self, vcpu: VCpu, declaration: Any, args: Any, status: Status, result: int, reason: str) -> None:
        """See `Observer.call_finished`."""
        if status is Status.NO_MEMORY:
            self._short = True
        elif status is Status.OK and declaration is not None and declaration.name == "memory.protect":
            self._joined |= args.count >= RANGE

    def op_finished(self, program: Program, outcomes: Sequence[Outcome], findings: Sequence[Finding]) -> None:
        """See `RunObserver.op_finished`."""
        hv, index, plan = self.hypervisor, self._index, self.plan
        op = program.ops[index]
        if plan is None:
            self.moments[index] = self._moment(hv, op, outcomes)
        elif index in plan.left_out:
            if index in self.first:
                self._pass_time(hv, self.first[index].timing)
        elif index in self.first and index <= plan.kept[op.actor.domain] and self.parting is None:
            first, second = self.first[index], self._moment(hv, op, outcomes)
            if Result.HOST_DOWN not in (first.outcomes[-1].how, outcomes[-1].how):
                self._reads.count(op, first.timing, first.outcomes[-1])
                waits = sees_grains(program, index)
                self.parting = compare(index, op.actor.domain, first, second, self._declared, waits=waits)
        if self.digested is not None:
            self.digests[index] = digest(hv, self.digested)

    def _moment(self, hv: Hypervisor, op: Op, outcomes: Sequence[Outcome]) -> Moment:
        domain = hv.domains[op.actor.domain]
        return Moment(
            Timing(self._start, hv.machine.clock.cycles, tuple(self._exits)),
            tuple(outcomes),
            tuple(map(state_of, domain.vcpus)),
            self._short,
            len(domain.pool) if self._joined else -1,
        )

    def _pass_time(self, hv: Hypervisor, timing: Timing) -> None:
        """Let the time of an op go by that is left out, and its exits meet deadlines."""
        clock = hv.machine.clock
        if Channel.DEADLINES in self._declared:
            for cycles in timing.exits:
                clock.cycles = cycles
                hv.scheduler.expire(hv.machine.vcpus)
                timer.expire(hv)
                apic_timer.expire(hv)
        clock.cycles = timing.end
