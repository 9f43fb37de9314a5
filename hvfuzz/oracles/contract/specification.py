"""The bridge to the executable specification: each call's outcome and effect against what the contract says.

The specification holds its own abstract state. When a call ends it is told what could be observed, says whether the
contract allows that, and writes the effect to its state. Then every cell that it wrote, and every cell that did
change in the machine, must be the same on both sides: so an effect that is missing is seen, and one too many.
After a finding the specification adopts what there is, so that one fault does not echo through the rest of a run.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final

from hvfuzz.abi.boot import MMIO_BASE, MMIO_SIZE, TIMER
from hvfuzz.abi.status import Status
from hvfuzz.machine.addresses import WRITE
from hvfuzz.machine.cpu.core import POLLING
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.cpu.vmcs import RAX, ExitReason
from hvfuzz.machine.mmu.ept import Qualification
from hvfuzz.oracles.contract.abstraction import Abstraction, run_state
from hvfuzz.oracles.contract.cell_changes import CellChanges, Cells
from hvfuzz.oracles.contract.dispatch_checks import DispatchChecks
from hvfuzz.oracles.contract.spec import (
    GHOSTS,
    SPEC,
    TARGETS,
    Block,
    Call,
    Key,
    Mismatch,
    Nested,
    Observed,
    Poll,
    RunState,
    State,
    Value,
    count_read,
    judge,
    judge_change,
    judge_halt,
    stop,
    wake,
)
from hvfuzz.oracles.contract.spec.calls.event import set_run
from hvfuzz.oracles.contract.spec.platform.timer import PORT, WIDTH, TimerModel, expired
from hvfuzz.oracles.exits.emulation import is_shutdown, reads_clock
from hvfuzz.oracles.exits.local_apics import Apics
from hvfuzz.oracles.framework.oracle import Oracle, Rules, Scene

if TYPE_CHECKING:
    from hvfuzz.oracles.shadow.changes import Change
    from hvfuzz.oracles.shadow.page_table_shadow import Reachability

HLT: Final = ExitReason.HLT
EPT_VIOLATION: Final = ExitReason.EPT_VIOLATION
FINAL: Final = int(Qualification.FINAL)
TIMER_GPA: Final = MMIO_BASE + TIMER * MMIO_SIZE
WRITING: Final = frozenset(TARGETS)
"""Calls that write to the guest's memory."""
# The constructor of a NamedTuple unpacks its arguments one by one: this is twice as quick.
_call = partial(tuple.__new__, Call)
_observed = partial(tuple.__new__, Observed)
SHADOWED: Final = frozenset({"page", "iova", "frame"})
"""Cells that are read from the shadow, which reports all that changes in it: what it did not report is as it was."""
CELLS: Final = (
    *("version", "vcpu", "page", "iova", "frame", "free", "grant", "handle", "bucket", "port", "device", "reserved"),
    *("clock_window", "console", "pool"),
)


class Specification(Oracle):
    """Statuses, results, copies and state changes are those of the contract."""

    name = "specification"
    shadowed = True
    rules: ClassVar[Rules] = {
        "dispatch": "a call is refused by dispatch if and as the contract says",
        "status": "the status is one that the contract allows",
        "result": "the result is the one that the contract says",
        "fetched": "only what the contract names is read from guest memory, in its order",
        "moved": "what the contract says, and no more, is moved between frames, by a device or by the host",
        "written": "what the contract says, and no more, is written to guest memory",
        "fresh": "as many free frames are taken as the contract says, and they were free",
        "privilege": "no call changes what its caller is entitled to",
        "nested": "a multicall makes the calls that its entries ask for, and tells the guest how they ended",
        "time": "a call that gives up time takes it",
        "change": "nothing changes but by a call",
        "state": "the state that a call meets is one that the contract knows",
        **{cell: f"after a call each `{cell}` cell is what the contract says" for cell in CELLS},
    }

    def __init__(self, scene: Scene, shadow: Reachability) -> None:
        super().__init__(scene, shadow)
        self._abstraction = Abstraction(scene, shadow)
        self._state = State(scene.machine.memory.frames)
        self._deltas = CellChanges(scene, shadow, self._abstraction)
        self._privileged = tuple(config.privileged for config in scene.world.domains)
        self._dispatch = DispatchChecks(scene)
        self._calls = scene.calls
        self._changes = self._deltas.changes
        self._domains = shadow.domains
        self._clock = scene.machine.clock
        self._polls = scene.hypervisor.scheduler.polls
        self._polling = False
        self._adopted = False
        self._apics = Apics(scene)
        self._vcpus = scene.machine.vcpus
        self._timers: list[TimerModel] = []
        self._timed = False
        """A timer has been written to, so that one may expire."""
        self._due: list[VCpu] = []
        """VCpus whose poll had run out of time when the present exit began."""

    def attach(self) -> None:
        """The machine as it is now is right by definition."""
        self._state = State(self.scene.machine.memory.frames, self._abstraction.cells().items())
        self._deltas.attach()
        self.reset()

    def reset(self) -> None:
        """Both sides are at the snapshot."""
        self._state.restore()
        self._deltas.reset()
        self._polling = False
        self._adopted = False
        self._due = []
        self._timers = [TimerModel() for _ in self._domains]
        self._timed = False

    # Moments.

    def settled(self, change: Change) -> None:
        """Keep the change until it is known whose effect it is."""
        self._deltas.changes.append(change)

    def call_started(self, vcpu: VCpu, declaration: Any, args: Any) -> None:
        """What changed since the last call was not done by this one: polls run out when an exit begins."""
        if self._polls or self._polling:
            self._polling = bool(self._polls)
            self._judge_runs()
        if args is not None and declaration.name in WRITING:
            self._dispatch.note_unwritable(vcpu, declaration)

    def call_finished(self, vcpu: VCpu, declaration: Any, args: Any, status: Any, result: int, reason: str) -> None:
        """Judge the call, then compare what changed."""
        state = self._state
        running = self._calls.current
        blocks: list[Block] = []
        actual = self._actual(blocks, running.applied)
        wanted = self._dispatch.expected(vcpu, running, declaration)
        mismatch: Mismatch | None
        if args is None:
            state.begin()
            mismatch = self._dispatch.judge_refusal(vcpu, running, wanted, status)
        elif isinstance(wanted, Status):
            text = f"the call got as far as its check; the contract says {wanted.name}"
            mismatch = Mismatch("dispatch", "", text)
        elif declaration.name not in SPEC:
            state.begin()
            self._adopt(_expanded(actual, blocks), vcpu.domain)  # A call that the contract does not know yet.
            return
        else:
            domain = vcpu.domain
            call = _call(
                (
                    declaration.name,
                    domain,
                    vcpu.index,
                    wanted,
                    tuple(running.reads) if running.reads else (),
                    running.cycles,
                    running.version,
                )
            )
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
                )
            )
            try:
                mismatch = judge(state, call, observed)
            except (LookupError, AttributeError) as error:
                mismatch = self._senseless(call, error)
        if mismatch is None:
            if actual or blocks or state.touched:
                self._compare(state, actual, blocks)
        else:
            self.report(mismatch.rule, mismatch.message)
            self._adopt(_expanded(actual, blocks), vcpu.domain)

    def reached(self, initiator: object, hpa: int, size: int, access: int) -> None:
        """What a device does while a call runs, it does for that call."""
        if type(initiator) is not VCpu and self._calls.running:
            self._calls.current.touched.append((access == WRITE, hpa, size))

    def exit_started(self, vcpu: VCpu) -> None:
        """Take note of polls that have run out of time: now is when they are looked at."""
        cycles = self._clock.cycles
        self._due = [polling for polling in self._vcpus if polling.runnable == POLLING and self._has_expired(polling)]
        if self._timed:
            for number, timer in enumerate(self._timers):
                if timer.due(cycles):
                    self._end_polls(cycles)
                    expired(self._state, number, timer.read(PORT, WIDTH))

    def exit_finished(self, vcpu: VCpu) -> None:
        """A poll that was due is over."""
        for polling in self._due:
            if polling.runnable == POLLING:
                text = f"vCPU {polling.index} of dom{polling.domain} polls on although its time is over"
                self.report("change", text)

    def trap_finished(self, vcpu: VCpu) -> None:
        """Exits other than hypercalls change nothing but who runs, and how often the clock was read."""
        vmcs = vcpu.vmcs
        if vmcs.reason is EPT_VIOLATION:
            self._judge_timer(vcpu)
        if vmcs.reason is HLT:
            interrupted = self._apics.takes_interrupt(vcpu)
            mismatch = judge_halt(self._state, vcpu.domain, vcpu.index, vcpu.runnable, interrupted)
            if mismatch is not None:
                self.report(mismatch.rule, mismatch.message)
                self._state["vcpu", vcpu.domain, vcpu.index] = run_state(vcpu.runnable)
        elif is_shutdown(vcpu):
            stop(self._state, vcpu.domain, vcpu.index)
            stopped = ("vcpu", vcpu.domain, vcpu.index)
            self._judge_change(stopped, self._abstraction.cell(stopped))
        elif reads_clock(vcpu):
            count_read(self._state, vcpu.domain, self._calls.cycles)
            key = ("clock_window", vcpu.domain)
            self._judge_change(key, self._abstraction.cell(key))
        self._judge_runs()

    def _judge_timer(self, vcpu: VCpu) -> None:
        """An access may be a write to the domain's timer."""
        vmcs = vcpu.vmcs
        if vmcs.write and vmcs.width and vmcs.qualification & FINAL and vmcs.gpa - TIMER_GPA & -MMIO_SIZE == 0:
            value = vmcs.saved[RAX] & (1 << 8 * vmcs.width) - 1
            self._timed = True
            self._timers[vcpu.domain].write(vmcs.operand & MMIO_SIZE - 1, vmcs.width, value, self._clock.cycles)

    def op_finished(self) -> None:
        """What no call did must not have happened."""
        deltas = self._deltas
        changed = deltas.noted() if self._changes else {}
        deltas.look_at_ports(changed)
        deltas.look_at_domains(changed)
        for key, value in changed.items():
            self._judge_change(key, value)

    def host_exception(self, fault: BaseException) -> None:
        """The host is dead: its effects are half done."""
        self._deltas.changes.clear()

    # Judging.

    def _end_polls(self, cycles: int) -> None:
        """Polls run out before a timer's event comes in. Where either may be, it is as the host has it."""
        for vcpu in self._vcpus:
            ending = self._polls.get(vcpu.id)
            poll: Poll | None = self._state.get(("poll", vcpu.domain, vcpu.index))
            if ending is not None and ending.deadline <= cycles and poll is not None and poll.deadline <= cycles:
                set_run(self._state, vcpu.domain, vcpu.index, RunState.RUNNABLE)

    def _has_expired(self, vcpu: VCpu) -> bool:
        """Whether the time is over for which a polling vCPU waits; one that nobody made poll never waits long."""
        poll: Poll | None = self._state.get(("poll", vcpu.domain, vcpu.index))
        return poll is not None and poll.latest <= self._clock.cycles

    def _senseless(self, call: Call, error: Exception) -> Mismatch:
        """The specification failed at its own state; called while `error` is handled."""
        # What was adopted from a broken hypervisor need not make sense: a port without a peer, for one.
        if not self._adopted:
            raise error
        self._state.abandon()
        return Mismatch("state", call.name, f"nothing that the contract knows: {error!r}")

    def _judge_runs(self) -> None:
        """Virtual CPUs that changed their run state without a call."""
        for key, value in self._deltas.runs().items():
            if value == RunState.RUNNABLE and self._state.get(key) == RunState.HALTED:
                _, domain, index = key
                if self._apics.takes_interrupt(self._domains[domain].vcpus[index]):
                    wake(self._state, domain, index)
            self._judge_change(key, value)

    def _judge_change(self, key: Key, value: Value) -> None:
        """A cell that changed without a call."""
        cycles = self.scene.machine.clock.cycles
        mismatch = judge_change(self._state, key, value, cycles, "")
        if mismatch is not None:
            self.report(mismatch.rule, mismatch.message)
            self._put(key, value)

    # Comparing.

    def _actual(self, blocks: list[Block], applied: bool) -> Cells:
        """The cells that may have changed in the machine, as they are now; whole blocks go to `blocks`.

        What is not found out through a table, and was not changed by an applied step, is looked at when the op ends.
        """
        deltas = self._deltas
        actual: Cells = deltas.noted(blocks) if deltas.changes else {}
        self._polling = bool(self._polls)
        runs = deltas.runs()
        if runs:
            actual.update(runs)
        deltas.look_at_ports(actual)
        if applied:
            deltas.look_at_domains(actual)
            for domain, privileged in zip(self._domains, self._privileged, strict=True):
                if domain.privileged is not privileged:
                    self.report("privilege", f"dom{domain.id}'s privilege is {domain.privileged} after a call")
        return actual

    def _compare(self, state: State, actual: Cells, blocks: list[Block]) -> None:
        """Both what changed and what should have changed must be equal on both sides."""
        get = state.get
        wanted = state.blocks
        if not (wanted or blocks) or _same_blocks(wanted, blocks):
            written = state.singles
        else:
            written = state.written
            actual = _expanded(actual, blocks)
        unreported = [key for key in written if key not in actual]
        if unreported:
            before = state.before()
            for key in unreported:
                if key[0] == "pool":
                    self._put(key, self._abstraction.cell(key))  # another domain's: adopted, not predicted
                    continue
                if key[0] in GHOSTS or (key[0] in SHADOWED and before.get(key) == get(key)):
                    continue
                actual[key] = self._abstraction.cell(key)
        if list(map(get, actual)) == list(actual.values()):
            return
        for key, value in actual.items():
            if get(key) != value:
                self.report(key[0], f"cell {key} is {value} where the contract says {get(key)}")
                self._put(key, value)

    def _put(self, key: Key, value: Value) -> None:
        """Adopt one cell."""
        self._adopted = True
        if value is None:
            del self._state[key]
        else:
            self._state[key] = self._abstraction.cell(key)

    def _adopt(self, actual: Cells, number: int) -> None:
        """Take over what there is."""
        state = self._state
        self._adopted = True
        actual["pool", number] = self._abstraction.cell(("pool", number))
        for key, value in actual.items():
            if state.get(key) != value:
                self._put(key, value)

    # Everything.

    def audit(self) -> None:
        """Compare every cell."""
        expected = {key: value for key, value in self._state.cells.items() if key[0] not in GHOSTS}
        actual = self._abstraction.cells()
        if actual == expected:
            return
        for key in sorted({*actual, *expected}, key=repr):
            if actual.get(key) != expected.get(key):
                text = f"cell {key} is {actual.get(key)} where the contract says {expected.get(key)}"
                self.report(key[0], text)


def _same_blocks(wanted: list[Block], actual: list[Block]) -> bool:
    """Whether the two sides have the same blocks, in any order; `spec.blocks` makes no two of the same cells."""
    # By identity, which is quick: should one have been forgotten and made again, the cells will be compared.
    return {id(block) for block in wanted} == {id(block) for block in actual} and len(wanted) == len(actual)


def _expanded(actual: Cells, blocks: list[Block]) -> Cells:
    """All cells, those of the blocks too."""
    if not blocks:
        return actual
    cells: Cells = {}
    for block in blocks:
        cells.update(block)
    cells.update(actual)
    return cells
