"""Records a run: all its moments, in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from hvfuzz.explain.recording.cache_watch import CacheWatch
from hvfuzz.explain.recording.chosen import Chosen, origin_of
from hvfuzz.explain.recording.device_watch import DeviceWatch
from hvfuzz.explain.recording.paths import paths_to
from hvfuzz.explain.recording.recorded_moments import (
    Access,
    Boot,
    Call,
    Copy,
    DeviceRegister,
    Exit,
    Found,
    FrameFreed,
    FrameTaken,
    LeafGone,
    LeafSet,
    Moment,
    OpBegins,
    OpEnds,
    PreemptionPoint,
    Recording,
    Return,
    Step,
    Walk,
    Who,
)
from hvfuzz.explain.recording.running_code import place_of_step, places
from hvfuzz.explain.recording.subjects import subjects_of
from hvfuzz.machine.addresses import LARGE_FRAMES, PAGE_SHIFT
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.oracles.shadow.changes import ADDRESS, DMA, DMA_RIGHTS, EPT_RIGHTS
from hvfuzz.targets.run_observer import RunObserver

if TYPE_CHECKING:
    from hvfuzz.abi.declaration import Declaration
    from hvfuzz.abi.status import Status
    from hvfuzz.bugs import Bug
    from hvfuzz.guest.program.program import Op, Program
    from hvfuzz.guest.run.trace import Outcome
    from hvfuzz.hypervisor.core.observer import AppliedStep
    from hvfuzz.machine.machine import Machine
    from hvfuzz.oracles.framework.finding import Finding
    from hvfuzz.oracles.framework.suite import OracleSuite
    from hvfuzz.oracles.shadow.changes import Change, Leaf

UNKNOWN_CALL: Final = "unknown call"


class Recorder(RunObserver):
    """Collects the moments of a run. `bug` is the planted one, whose own code is not named in them."""

    __slots__ = ("_boot", "_bug", "_caches", "_devices", "_machine", "_running", "_suite", "moments")

    def __init__(self, bug: Bug | None = None) -> None:
        self._bug: Final = bug
        self.moments: list[Moment] = []
        self._machine: Machine | None = None
        self._caches: CacheWatch | None = None
        self._devices: Final = DeviceWatch(self._register)
        self._suite: OracleSuite | None = None
        self._boot = Boot((), (), ())
        self._running = False
        """Whether an op is running: what happens between ops is not the program's."""

    @property
    def recording(self) -> Recording:
        """The last run."""
        return Recording(self._boot, tuple(self.moments))

    def attach(self, machine: Machine, suite: OracleSuite) -> None:
        """Record the accesses of `machine`; an access observer that is already attached stays attached."""
        self._machine, self._suite, self._caches = machine, suite, CacheWatch(machine)
        inner = machine.access_observer

        def accessed(initiator: Any, hpa: int, size: int, access: int) -> None:
            if self._running:
                self._note(Access(_who(initiator, machine), hpa, size, access))
            if inner is not None:
                inner(initiator, hpa, size, access)

        machine.access_observer = accessed

    def begin(self) -> None:
        """See `RunObserver.begin`."""
        self.moments = []
        self._running = False
        machine, suite, caches = self._machine, self._suite, self._caches
        if machine is None or suite is None or caches is None:
            return
        self._devices.begin(machine)
        words = machine.memory.words
        first = suite.hypervisor.frames.base >> 3
        leaves = [suite.shadow.leaf(word) for words in suite.shadow.leaves.values() for word in words]
        leaves += [suite.shadow.leaf(word) for words in suite.shadow.large.values() for word in words]
        self._boot = Boot(
            tuple(words[first : first + machine.memory.frames]),
            tuple(_leaf_set(leaf) for leaf in leaves if leaf is not None),
            caches.begin(),
        )

    def _note(self, moment: Moment) -> None:
        """Add a moment, after what the processor did before it."""
        self._look()
        self.moments.append(moment)

    def _look(self) -> None:
        """Add the walks and the changes of caches since the last moment."""
        machine, caches = self._machine, self._caches
        if machine is None or caches is None:
            return
        if machine.mmu.record:
            steps, machine.mmu.record = machine.mmu.record, []
            self.moments.append(Walk(tuple(steps)))
        self.moments += caches.changes()

    # Ops and exits.

    def op_started(self, index: int, op: Op) -> None:
        """See `RunObserver.op_started`."""
        self._running = True
        self.moments.append(OpBegins(index, op))
        if self._machine is not None:
            self._machine.mmu.record = []

    def op_finished(self, program: Program, outcomes: Sequence[Outcome], findings: Sequence[Finding]) -> None:
        """See `RunObserver.op_finished`."""
        self._look()
        self._running = False
        begins = next(each for each in reversed(self.moments) if isinstance(each, OpBegins))
        race = begins.op.race
        kinds = [
            race.op.kind.name if race is not None and outcome.code == race.op.kind.code else name
            for outcome in outcomes
            for name in (program.ops[outcome.op].kind.name,)
        ]
        self.moments.append(OpEnds(begins.number, tuple(outcomes), tuple(kinds)))

    def exit_started(self, vcpu: VCpu) -> None:
        """See `RunObserver.exit_started`."""
        vmcs = vcpu.vmcs
        ept = vmcs.reason.name.startswith("EPT")
        details = (vmcs.gpa, vmcs.qualification) if ept else (None, 0)
        self._note(Exit(Who(vcpu.domain, vcpu.index), vmcs.reason.name, *details))

    # What the hypervisor tells.

    def call_started(self, vcpu: VCpu, declaration: Declaration | None, args: Any) -> None:
        """See `Observer.call_started`."""
        values: dict[str, object] | None = None
        if declaration is not None and args is not None:
            values = {}
            for field in declaration.fields:
                attribute = field.attribute or field.name
                values[field.name] = value = getattr(args, attribute)
                if type(value) is int:
                    object.__setattr__(args, attribute, Chosen(value, field.name))
        name = UNKNOWN_CALL if declaration is None else declaration.name
        self._note(Call(Who(vcpu.domain, vcpu.index), name, values))

    def call_finished(
        self, vcpu: VCpu, declaration: Declaration | None, args: Any, status: Status, result: int, reason: str
    ) -> None:
        """See `Observer.call_finished`."""
        self._note(Return(UNKNOWN_CALL if declaration is None else declaration.name, int(status), result, reason))

    def guest_copy(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        """See `Observer.guest_copy`."""
        origin = origin_of(gva) or origin_of(hpa) or origin_of(size)
        self._note(Copy(Who(vcpu.domain, vcpu.index), int(gva), int(hpa), int(size), write, origin))

    def step(self, step: AppliedStep) -> None:
        """See `Observer.step`."""
        fields: dict[str, object] = step._asdict() if hasattr(step, "_asdict") else {}
        origins = {name: origin_of(value) for name, value in fields.items() if origin_of(value)}
        place = place_of_step(step, self._bug)
        name = type(step).__name__ if place.function == f"{type(step).__qualname__}.apply" else ""
        self._note(Step(name, fields, origins, place))

    def preemption_point(self) -> None:
        """See `Observer.preemption_point`."""
        self._note(PreemptionPoint())

    def frame_allocated(self, hfn: int, owner: int, state: int) -> None:
        """See `Observer.frame_allocated`."""
        self._note(FrameTaken(hfn, 1, owner, state))

    def block_allocated(self, first: int, owner: int, state: int) -> None:
        """See `Observer.block_allocated`."""
        self._note(FrameTaken(first, LARGE_FRAMES, owner, state))

    def frame_freed(self, hfn: int) -> None:
        """See `Observer.frame_freed`."""
        self._note(FrameFreed(hfn, 1))

    def block_freed(self, first: int) -> None:
        """See `Observer.block_freed`."""
        self._note(FrameFreed(first, LARGE_FRAMES))

    def _register(self, device: str, offset: int, size: int, value: int, write: bool) -> None:
        """A register of a device is accessed."""
        if self._running:
            self._note(DeviceRegister(device, offset, size, value, write))

    # What the oracles see.

    def shadow_changed(self, change: Change) -> None:
        """Tables, frame words or grants differ from before: record the leaves."""
        for space, level, page, entry in change.removed:
            rights = entry & (DMA_RIGHTS if space & DMA else EPT_RIGHTS)
            count = 1 << 9 * (level - 1)
            self._note(LeafGone(space, page, count, (entry & ADDRESS) >> PAGE_SHIFT, rights))
        for leaf in change.added:
            self._note(_leaf_set(leaf))

    def found(self, finding: Finding) -> None:
        """See `RunObserver.found`."""
        suite = self._suite
        paths = () if suite is None else paths_to(suite, subjects_of(finding.message).frames)
        self._note(Found(finding, places(self._bug), paths))


def _leaf_set(leaf: Leaf) -> LeafSet:
    return LeafSet(leaf.space, leaf.page, leaf.frames, leaf.frame, leaf.rights, leaf.foreign)


def _who(initiator: Any, machine: Machine) -> Who:
    if isinstance(initiator, VCpu):
        return Who(initiator.domain, initiator.index)
    context = machine.iommu.context_cache.get(initiator.bdf)
    return Who(-1 if context is None else context.did - 1, device=initiator.name)
