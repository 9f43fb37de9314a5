"""The bridge to the executable specification: each call's outcome and effect against what the contract says.

The specification holds its own abstract state. When a call ends it is told what could be observed, says whether the
contract allows that, and writes the effect to its state. Then every cell that it wrote, and every cell that did
change in the machine, must be the same on both sides: so an effect that is missing is seen, and one too many.
After a finding the specification adopts what there is, so that one fault does not echo through the rest of a run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from hvfuzz.abi.limits import BUCKETS, HEADER_SIZE, PORTS_PER_BUCKET
from hvfuzz.abi.status import Status
from hvfuzz.machine.vmcs import RAX, ExitReason
from hvfuzz.oracles.abstraction import STATES, Abstraction, frame_of, keys_of
from hvfuzz.oracles.oracle import Oracle, Rules, Scene
from hvfuzz.oracles.reachability import DMA
from hvfuzz.oracles.spec import (
    BY_NUMBER,
    FREE,
    GHOSTS,
    SPEC,
    Call,
    IoPage,
    Key,
    Mismatch,
    Nested,
    Observed,
    Page,
    State,
    Value,
    decode,
    judge,
    judge_change,
    judge_dispatch,
    judge_halt,
)

if TYPE_CHECKING:
    from hvfuzz.hypervisor.domains import Bucket
    from hvfuzz.machine.cpu import VCpu
    from hvfuzz.oracles.calls import Running
    from hvfuzz.oracles.reachability import Change, Reachability

HLT: Final = ExitReason.HLT
CELLS: Final = (
    *("version", "vcpu", "page", "iova", "frame", "free", "grant", "handle", "bucket", "port", "device"),
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
        "written": "what the contract says, and no more, is written to guest memory",
        "fresh": "as many free frames are taken as the contract says, and they were free",
        "nested": "a multicall makes the calls that its entries ask for, and tells the guest how they ended",
        "change": "nothing changes but by a call",
        **{cell: f"after a call each `{cell}` cell is what the contract says" for cell in CELLS},
    }

    def __init__(self, scene: Scene, shadow: Reachability) -> None:
        super().__init__(scene, shadow)
        self._abstraction = Abstraction(scene, shadow)
        self._state = State(scene.machine.memory.frames)
        self._changes: list[Change] = []
        self._runs: list[int] = []
        self._base_runs: list[int] = []
        self._buckets: list[list[Bucket | None]] = []
        self._ports: dict[tuple[int, int], list[Any]] = {}
        self._privileged = tuple(config.privileged for config in scene.world.domains)
        self._own_keys: tuple[tuple[Key, ...], ...] = ()

    def attach(self) -> None:
        """The machine as it is now is right by definition."""
        self._state = State(self.scene.machine.memory.frames, self._abstraction.cells())
        self._base_runs = [vcpu.runnable for vcpu in self.scene.machine.vcpus]
        self._own_keys = tuple(
            (("version", number), ("clock_window", number), ("console", number))
            for number in range(len(self.shadow.domains))
        )
        self.reset()

    def reset(self) -> None:
        """Both sides are at the snapshot."""
        self._state.restore()
        self._changes.clear()
        self._runs = self._base_runs
        self._buckets = [[None] * BUCKETS for _ in self.shadow.domains]
        self._ports = {}

    # Moments.

    def settled(self, change: Change) -> None:
        """Keep the change until it is known whose effect it is."""
        self._changes.append(change)

    def call_started(self, vcpu: VCpu, declaration: Any, args: Any) -> None:
        """What changed since the last call was not done by this one."""
        if self._runs != [vcpu.runnable for vcpu in self.scene.machine.vcpus]:
            self._judge_runs()

    def call_finished(self, vcpu: VCpu, declaration: Any, args: Any, status: Any, result: int, reason: str) -> None:
        """Judge the call, then compare what changed."""
        scene = self.scene
        state = self._state
        running = scene.calls.current
        actual = self._actual(vcpu)
        mismatch = self._judge_dispatch(vcpu, running, declaration, args, status)
        state.begin()
        if mismatch is None and args is not None and declaration.name in SPEC:
            header, body = _struct(running)
            domain = self.shadow.domains[vcpu.domain]
            number = declaration.number
            call = Call(
                declaration.name,
                vcpu.domain,
                vcpu.index,
                decode(number, header or b"", body or b"") if number in BY_NUMBER else args,
                tuple(running.reads),
                running.cycles,
                running.version,
            )
            observed = Observed(
                int(status),
                result,
                tuple(running.writes),
                tuple(running.fresh),  # type: ignore[arg-type]
                len(domain.pool),
                scene.machine.clock.cycles,
                tuple(Nested(*ended) for ended in running.nested) if running.nested else (),
            )
            mismatch = judge(state, call, observed)
        if mismatch is not None:
            self.report(mismatch.rule, mismatch.message)
            self._adopt(actual, vcpu.domain)
            return
        if args is not None and declaration.name not in SPEC:
            self._adopt(actual, vcpu.domain)
            return
        self._compare(state, actual)

    def exit_finished(self, vcpu: VCpu) -> None:
        """Exits other than hypercalls change nothing but who runs."""
        runs = [vcpu.runnable for vcpu in self.scene.machine.vcpus]
        if runs != self._runs or vcpu.vmcs.reason is HLT:
            if vcpu.vmcs.reason is HLT:
                mismatch = judge_halt(self._state, vcpu.domain, vcpu.index, vcpu.runnable)
                if mismatch is not None:
                    self.report(mismatch.rule, mismatch.message)
                    self._state["vcpu", vcpu.domain, vcpu.index] = STATES[vcpu.runnable]
            self._judge_runs()

    def op_finished(self) -> None:
        """What no call did must not have happened."""
        if self._changes:
            for key, value in self._from_changes().items():
                self._judge_change(key, value)

    def host_exception(self, fault: BaseException) -> None:
        """The host is dead: its effects are half done."""
        self._changes.clear()

    # Judging.

    def _judge_dispatch(
        self, vcpu: VCpu, running: Running, declaration: Any, args: Any, status: Any
    ) -> Mismatch | None:
        """Whether dispatch let the call pass, or refused it, as the contract says."""
        if declaration is not None:
            number: int = declaration.number
        elif running.outer is self.scene.calls.idle:
            number = vcpu.vmcs.saved[RAX]
        else:
            return None
        header, body = _struct(running)
        wanted = judge_dispatch(
            running.version, vcpu.cpl, number, header, body, privileged=self._privileged[vcpu.domain]
        )
        if wanted is None:
            if args is None:
                return Mismatch("dispatch", "", f"{Status(status).name}, where the contract has no refusal")
            return None
        if args is not None:
            return Mismatch("dispatch", "", f"the call got as far as its check; the contract says {wanted.name}")
        if status != wanted:
            return Mismatch("dispatch", "", f"{Status(status).name} where the contract says {wanted.name}")
        return None

    def _judge_runs(self) -> None:
        """Virtual CPUs that changed their run state without a call."""
        vcpus = self.scene.machine.vcpus
        for vcpu, run in zip(vcpus, self._runs, strict=True):
            if vcpu.runnable != run:
                self._judge_change(("vcpu", vcpu.domain, vcpu.index), STATES[vcpu.runnable])
        self._runs = [vcpu.runnable for vcpu in vcpus]

    def _judge_change(self, key: Key, value: Value) -> None:
        """A cell that changed without a call."""
        cycles = self.scene.machine.clock.cycles
        mismatch = judge_change(self._state, key, value, cycles, "")
        if mismatch is not None:
            self.report(mismatch.rule, mismatch.message)
            self._put(key, value)

    # Comparing.

    def _actual(self, vcpu: VCpu) -> dict[Key, Value]:
        """The cells that may have changed in the machine, as they are now."""
        actual: dict[Key, Value] = self._from_changes() if self._changes else {}
        vcpus = self.scene.machine.vcpus
        runs = [other.runnable for other in vcpus]
        if runs != self._runs:
            for other, run in zip(vcpus, self._runs, strict=True):
                if other.runnable != run:
                    actual["vcpu", other.domain, other.index] = STATES[other.runnable]
            self._runs = runs
        domain = self.shadow.domains[vcpu.domain]
        get = self._state.get
        version, window, console = self._own_keys[vcpu.domain]
        if domain.version != get(version):
            actual[version] = domain.version
        if domain.clock_reads and (domain.clock_window, domain.clock_reads) != get(window):
            actual[window] = self._abstraction.cell(window)
        if domain.console and domain.console != get(console):
            actual[console] = bytes(domain.console)
        self._look_at_ports(actual)
        return actual

    def _look_at_ports(self, actual: dict[Key, Value]) -> None:
        """Find the buckets and ports that changed."""
        saved = self._buckets
        for number, domain in enumerate(self.shadow.domains):
            if domain.buckets != saved[number]:
                buckets = list(domain.buckets)
                for index, (old, new) in enumerate(zip(saved[number], buckets, strict=True)):
                    if old is not new:
                        actual["bucket", number, index] = None if new is None else new.page
                        self._note_ports(actual, number, index, new)
                saved[number] = buckets
        for (number, index), ports in list(self._ports.items()):
            bucket = saved[number][index]
            if bucket is not None and bucket.ports != ports:
                self._note_ports(actual, number, index, bucket)

    def _note_ports(self, actual: dict[Key, Value], number: int, index: int, bucket: Bucket | None) -> None:
        """Compare the ports of one bucket with what they were."""
        before = self._ports.pop((number, index), [None] * PORTS_PER_BUCKET)
        after = [None] * PORTS_PER_BUCKET if bucket is None else list(bucket.ports)
        for offset, (old, new) in enumerate(zip(before, after, strict=True)):
            if old != new:
                key = ("port", number, index * PORTS_PER_BUCKET + offset)
                actual[key] = self._abstraction.cell(key)
        if bucket is not None:
            self._ports[number, index] = after

    def _from_changes(self) -> dict[Key, Value]:
        """The cells that the collected changes concern, as they are now; the changes are used up."""
        shadow = self.shadow
        actual: dict[Key, Value] = {}
        values = shadow.frames.values
        for change in self._changes:
            if change.frames:
                for hfn in change.frames:
                    actual["frame", hfn] = frame_of(values[hfn])
                actual[FREE] = self._abstraction.cell(FREE)
            for space, level, page, _ in change.removed:
                for key in keys_of(space, level, page):
                    actual[key] = None
            for word in change.added:
                leaf = shadow.leaf(word)
                if leaf is not None:
                    _, space, level, page, frame, rights, foreign = leaf
                    kind: Any = IoPage if space & DMA else Page
                    for offset, key in enumerate(keys_of(space, level, page)):
                        actual[key] = kind(frame + offset, rights, foreign)
            for bdf in change.contexts:
                for number, device in enumerate(self.scene.machine.devices):
                    if device.bdf == bdf:
                        actual["device", number] = self._abstraction.cell(("device", number))
            for number, ref, _, _ in change.entries:
                actual["grant", number, ref] = self._abstraction.cell(("grant", number, ref))
            for number, handle, _, _ in change.handles:
                actual["handle", number, handle] = self._abstraction.cell(("handle", number, handle))
        self._changes.clear()
        return actual

    def _compare(self, state: State, actual: dict[Key, Value]) -> None:
        """Both what changed and what should have changed must be equal on both sides."""
        get = state.get
        for key in state.written:
            if key not in actual and key[0] not in GHOSTS:
                actual[key] = self._abstraction.cell(key)
        for key, value in actual.items():
            if get(key) != value:
                self.report(key[0], f"cell {key} is {value} where the contract says {get(key)}")
                self._put(key, value)

    def _put(self, key: Key, value: Value) -> None:
        if value is None:
            del self._state[key]
        else:
            self._state[key] = value

    def _adopt(self, actual: dict[Key, Value], number: int) -> None:
        """Take over what there is."""
        state = self._state
        actual["pool", number] = self._abstraction.cell(("pool", number))
        for key, value in actual.items():
            if state.get(key) != value:
                self._put(key, value)

    # Everything.

    def audit(self) -> None:
        """Compare every cell."""
        cells = {key: value for key, value in self._state.cells.items() if key[0] not in GHOSTS}
        for key, value in self._abstraction.cells():
            expected = cells.pop(key, None)
            if expected != value:
                self.report(key[0], f"cell {key} is {value} where the contract says {expected}")
        for key, value in cells.items():
            self.report(key[0], f"cell {key} does not exist where the contract says {value}")


def _struct(running: Running) -> tuple[bytes | None, bytes | None]:
    """Header and body of a call's struct, as far as they were fetched."""
    pieces = running.struct
    if len(pieces) == 2 and len(pieces[0][1]) == HEADER_SIZE:
        header, body = pieces[0][1], pieces[1][1]
        return header, body if len(body) == int.from_bytes(header[:2], "little") - HEADER_SIZE else None
    data = b"".join([piece for _, piece in pieces])
    if len(data) < HEADER_SIZE:
        return None, None
    rest = int.from_bytes(data[:2], "little") - HEADER_SIZE
    return data[:HEADER_SIZE], data[HEADER_SIZE:] if 0 < rest == len(data) - HEADER_SIZE else None
