"""The oracle `specification`: judges each call's outcome and effect by the executable specification.

The specification keeps an abstract state. When a call ends, the oracle tells it what was observed; it says
whether the contract allows that, and writes the call's effect to its state. Then every cell that it wrote, and every
cell that changed in the machine, must be equal on both sides. So a missing effect is seen, and a surplus one, too.
"""

from __future__ import annotations

from functools import cache, partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Final

from hvfuzz.abi.status import Status
from hvfuzz.machine.addresses import WRITE
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.oracles.contract import booted_cells, firmware_checks
from hvfuzz.oracles.contract.abstraction import Abstraction
from hvfuzz.oracles.contract.cell_changes import CellChanges, Cells
from hvfuzz.oracles.contract.cell_comparison import CellComparison
from hvfuzz.oracles.contract.dispatch_checks import DispatchChecks
from hvfuzz.oracles.contract.spec import SPEC, TARGETS, Block, Call, Mismatch, Nested, Observed, State, judge
from hvfuzz.oracles.contract.trap_checks import TrapChecks
from hvfuzz.oracles.framework.oracle import Oracle, Rules
from hvfuzz.oracles.scene.scene import Scene

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hvfuzz.oracles.scene.running_call import RunningCall
    from hvfuzz.oracles.shadow.changes import Change
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

WRITING: Final = frozenset(TARGETS)
"""Names of the calls that write to guest memory."""
# The constructor of a NamedTuple takes twice as long as `tuple.__new__`. With the constructors of `Call`, `Observed`,
# `Frame`, `Page` and `IoPage` in their hot places, the op rate with oracles is 1 to 3 % lower.
_call = partial(tuple.__new__, Call)
_observed = partial(tuple.__new__, Observed)
CELLS: Final = (
    *("version", "vcpu", "page", "iova", "frame", "free", "grant", "handle", "bucket", "port", "device", "reserved"),
    *("clock_window", "console", "pool"),
)


class Specification(Oracle):
    """Judges statuses, results, copies and state changes of calls by the executable specification."""

    name = "specification"
    shadowed = True
    rules: ClassVar[Rules] = {
        "dispatch": "dispatch refuses the calls that the contract says, with the status that it says",
        "args": "a call runs with the arguments in the struct that was fetched for it",
        "status": "the status is one that the contract allows",
        "result": "the result is what the contract says",
        "fetched": "the call reads only the guest memory that the contract names, in its order",
        "moved": "exactly the bytes that the contract names are moved between frames, by a device or by the host",
        "written": "exactly the bytes that the contract names are written to guest memory",
        "fresh": "the call takes as many frames as the contract says, all of them free",
        "privilege": "no call changes the privilege of a domain",
        "firmware": "boot goes by the tables of the firmware, and stops if they are damaged",
        "nested": "a multicall makes the calls of its entries, and writes their outcomes",
        "time": "`sched.yield` advances the clock by a time slice",
        "change": "nothing changes without a call",
        "state": "the specification can judge the call in the present state",
        **{cell: f"after a call each `{cell}` cell has the value that the contract says" for cell in CELLS},
    }

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        super().__init__(scene, shadow)
        self._abstraction: Final = Abstraction(scene, shadow)
        self._changes: Final = CellChanges(scene, shadow, self._abstraction)
        self._dispatch: Final = DispatchChecks(scene)
        self._calls: Final = scene.calls
        self._clock: Final = scene.machine.clock
        self._shortage: Final = scene.machine.shortage
        self._domains: Final = shadow.domains
        self._privileged: Final = tuple(config.privileged for config in scene.world.domains)
        self._polls: Final = scene.hypervisor.scheduler.polls
        self._polling = False
        """Whether a vCPU polled when run states were last compared."""
        self._start(State(scene.machine.memory.frames))

    def _start(self, state: State) -> None:
        """Judge from here on by `state`."""
        self._state = state
        self._comparison = CellComparison(state, self._abstraction, self._calls, self.report)
        self._traps = TrapChecks(self.scene, self._domains, self._changes, self._comparison, self.report)

    def attach(self) -> None:
        """Check the booted machine against its world, and take it as the base."""
        cells, frames = self._abstraction.cells(), self.scene.machine.memory.frames
        for rule, text in booted_cells.faults(self.scene.world, cells, frames):
            self.report(rule, text)
        for domain, privileged in zip(self._domains, self._privileged, strict=True):
            if domain.privileged != privileged:
                self.report("privilege", f"after boot dom{domain.id} is {'un' if privileged else ''}privileged")
        fault = firmware_checks.table_fault(self.scene)
        if fault is not None:
            self.report("firmware", fault)
        self._start(State(frames, cells.items()))
        self._changes.attach()
        self.reset()

    def reset(self) -> None:
        """Return to the base, as the machine has done."""
        self._comparison.reset()
        self._changes.reset()
        self._traps.reset()
        self._polling = False

    def firmware_read(self, readings: Mapping[str, firmware_checks.Reading]) -> None:
        """Judge what boot makes of tables that this firmware does not have."""
        for text in firmware_checks.reading_faults(readings):
            self.report("firmware", text)

    # Hypercalls.

    def call_started(self, vcpu: VCpu, declaration: Any, args: Any) -> None:
        """Judge what happened before the call: polls time out and APIC timers interrupt when an exit begins."""
        if self._polls or self._polling or self._traps.counted or self._traps.due:
            self._polling = bool(self._polls)
            self._traps.judge_polls()
            self._traps.judge_runs()
        if args is not None and declaration.name in WRITING:
            self._dispatch.note_unwritable(vcpu, declaration)

    def call_finished(self, vcpu: VCpu, declaration: Any, args: Any, status: Any, result: int, reason: str) -> None:
        """Judge the call, then compare the cells."""
        state = self._state
        running = self._calls.current
        blocks: list[Block] = []
        actual = self._actual(blocks, running.applied)
        expected = self._dispatch.expected(vcpu, running, declaration)
        mismatch: Mismatch | None
        if args is None:
            state.begin()
            mismatch = self._dispatch.judge_refusal(vcpu, running, expected, status)
        elif isinstance(expected, Status):
            text = f"the call passed dispatch; the contract says {expected.name}"
            mismatch = Mismatch("dispatch", "", text)
        elif declaration.name not in SPEC:
            state.begin()
            self._comparison.adopt(actual, blocks, vcpu.domain)  # A call that the specification lacks so far.
            return
        else:
            if expected:  # Some calls have no arguments.
                self._judge_arguments(expected, args)
            mismatch = self._judge(vcpu, running, declaration.name, expected, status, result)
        if state.excused:
            self._pass_on_excuses()
        if mismatch is None:
            if actual or blocks or state.touched:
                self._comparison.compare(actual, blocks)
        else:
            self.report(mismatch.rule, mismatch.message)
            self._comparison.adopt(actual, blocks, vcpu.domain)

    def _pass_on_excuses(self) -> None:
        """Count what the specification let pass."""
        for excuse in self._state.excused:
            self.scene.excused(excuse)
        self._state.excused.clear()

    def _judge_arguments(self, expected: Any, args: Any) -> None:
        """Compare the arguments that the hypervisor announced with the decoded struct: other oracles believe them."""
        kind: Any = type(expected)
        if _getter(kind)(args)[:-1] != expected:
            for name, value in zip(expected._fields, expected, strict=True):
                given = getattr(args, name)
                if given != value:
                    self.report("args", f"{name} is {given} where the struct that was fetched says {value}")

    def _judge(
        self, vcpu: VCpu, running: RunningCall, name: str, args: Any, status: Any, result: int
    ) -> Mismatch | None:
        """Judge a call that passed dispatch, and apply its effect to the state."""
        domain = vcpu.domain
        reads = tuple(running.reads) if running.reads else ()
        call = _call((name, domain, vcpu.index, args, reads, running.cycles, running.version))
        observed = _observed(
            (
                status,
                result,
                running.writes,
                tuple(running.fresh) if running.fresh else (),
                len(self._domains[domain].pool),
                self._clock.cycles,
                tuple([Nested(*ended) for ended in running.nested]) if running.nested else (),
                tuple(running.touched),
                running.garbled,
                self._dispatch.translations[vcpu.id],
                running.shut,
                running.denied(self._shortage),
            )
        )
        try:
            return judge(self._state, call, observed)
        except (LookupError, AttributeError) as error:
            # A state adopted from a broken hypervisor may be inconsistent: a port without a peer, for one.
            if not self._comparison.adopted:
                raise
            self._state.abandon()
            return Mismatch("state", name, f"the specification cannot judge the call in this state: {error!r}")

    def _actual(self, blocks: list[Block], applied: bool) -> Cells:
        """The cells that may have changed in the machine, with their values; whole blocks go to `blocks`.

        Without an applied step a call can change only what the shadow, the vCPUs and the ports show. Everything else
        is looked at when the op ends.
        """
        changes = self._changes
        actual: Cells = changes.from_shadow(blocks) if changes.pending else {}
        self._polling = bool(self._polls)
        runs = changes.run_states()
        if runs:
            actual.update(runs)
        changes.add_ports(actual)
        if applied:
            changes.add_domains(actual)
            for domain, privileged in zip(self._domains, self._privileged, strict=True):
                if domain.privileged is not privileged:
                    self.report("privilege", f"dom{domain.id}'s privilege is {domain.privileged} after a call")
        return actual

    # Everything else.

    def shadow_changed(self, change: Change) -> None:
        """Keep the change for the call, or the end of the op, that it belongs to."""
        self._changes.pending.append(change)

    def dma_or_foreign_access(self, initiator: object, hpa: int, size: int, access: int) -> None:
        """Attribute a device's access to the call that is running."""
        if type(initiator) is not VCpu and self._calls.running and not self._calls.awake:
            self._calls.current.touched.append((access == WRITE, hpa, size))

    def exit_started(self, vcpu: VCpu) -> None:
        """End the polls that have timed out, and expire timers."""
        self._traps.exit_started()

    def trap_finished(self, vcpu: VCpu) -> None:
        """Judge an exit that is not a hypercall."""
        self._traps.trap_finished(vcpu)

    def op_finished(self) -> None:
        """Judge what changed without a call."""
        changes = self._changes
        changed = changes.from_shadow() if changes.pending else {}
        changes.add_ports(changed)
        changes.add_domains(changed)
        for key, value in changed.items():
            self._comparison.judge_change(key, value)
        if self._state.excused:
            self._pass_on_excuses()

    def host_exception(self, fault: BaseException) -> None:
        """Forget the changes of a call that the exception cut short: its effect is incomplete."""
        self._changes.pending.clear()

    def audit(self) -> None:
        """Compare every cell."""
        self._comparison.audit()


@cache
def _getter(kind: Any) -> Callable[[Any], tuple[Any, ...]]:
    """Reads the fields of a class of arguments, and the class, which makes the result a tuple even for one field."""
    return attrgetter(*kind._fields, "__class__")
