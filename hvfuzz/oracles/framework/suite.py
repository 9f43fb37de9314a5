"""All oracles of one system: they listen to machine and hypervisor together, and their findings come out here."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from hvfuzz.hypervisor.core.observer import SILENT, Observer
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.oracles.accounting.growth import Growth
from hvfuzz.oracles.accounting.recount import Recount
from hvfuzz.oracles.accounting.work import Work
from hvfuzz.oracles.contract.specification import Specification
from hvfuzz.oracles.exits.exits import Exits
from hvfuzz.oracles.framework.audit import Audit
from hvfuzz.oracles.framework.call_stack import NO_DOMAIN
from hvfuzz.oracles.framework.finding import Finding
from hvfuzz.oracles.framework.listeners import OF_FRAMES, Listener, nothing, together
from hvfuzz.oracles.framework.oracle import Oracle
from hvfuzz.oracles.framework.scene import Scene
from hvfuzz.oracles.host.access_log import AccessLog
from hvfuzz.oracles.host.flush_order import FlushOrder
from hvfuzz.oracles.host.host_memory import HostMemory
from hvfuzz.oracles.isolation.fetch import Fetch
from hvfuzz.oracles.isolation.ownership import Ownership
from hvfuzz.oracles.isolation.secrets import Secrets
from hvfuzz.oracles.isolation.stale import Stale
from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

if TYPE_CHECKING:
    from hvfuzz.abi.boot import World
    from hvfuzz.abi.declaration import Declaration
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.machine.machine import Machine

# In the order in which they act. The host's own faults come first: what follows from a fault is the lesser news.
ORACLES: Final[tuple[type[Oracle], ...]] = (
    HostMemory,
    Fetch,
    Exits,
    Work,
    Ownership,
    Stale,
    Recount,
    Secrets,
    Specification,
    Audit,
)
NAMES: Final = tuple(oracle.name for oracle in ORACLES)
_FORWARDED: Final = (
    "frame_allocated",
    "frame_freed",
    "block_allocated",
    "block_freed",
    "host_access",
    "guest_copy",
    "step",
    "stepped",
    "preemption_point",
)
"""Moments of `Observer` at which the suite itself has nothing to do."""
_PACKAGE: Final = "hvfuzz.oracles."
_HARDWARE: Final = ("hvfuzz.machine.", f"{_PACKAGE}host.hooked_hardware")
_BOOT: Final = "boot"
_AUDIT: Final = "audit"
_UNKNOWN_CALL: Final = "vmcall"
VMCALL: Final = ExitReason.VMCALL
STRUCT_PIECES: Final = 2
"""Copies in which a struct is fetched: header, body."""


class OracleSuite(Observer):
    """The oracles named in `enabled` (all, if None), attached to one machine and its hypervisor.

    `attach` once, when the system is booted and before its snapshot is taken. Then for each program: `reset` (after
    the machine was put back), `op_started` and `op_finished` around each op, `program_finished`, perhaps `audit`.
    `findings` has the first finding of each identity, in order. `observers` hear what the hypervisor says as well.
    Where a bug is `planted`, a state of which an oracle can make no sense is a finding; else it is our error.
    VM exits must go through `handle_exit`.
    """

    __snapshot_leaf__ = True

    def __init__(
        self,
        machine: Machine,
        hypervisor: Hypervisor,
        world: World,
        enabled: frozenset[str] | None = None,
        observers: Iterable[Observer] = (),
        *,
        planted: bool = False,
    ) -> None:
        unknown = sorted(enabled - set(NAMES)) if enabled is not None else []
        if unknown:
            raise ValueError(f"no oracle {unknown[0]!r} (known: {', '.join(NAMES)})")
        self.machine: Final = machine
        self.hypervisor: Final = hypervisor
        self.findings: list[Finding] = []
        self._seen: dict[tuple[str, str, str], None] = {}
        self._op = -1
        self._operation = _BOOT
        scene = Scene(machine, hypervisor, world, self._report)
        self._calls: Final = scene.calls
        self.shadow: Final = PageTableShadow(scene)
        self.oracles: Final[dict[str, Oracle]] = {}
        for oracle in ORACLES:
            if enabled is None or oracle.name in enabled:
                self.oracles[oracle.name] = oracle(scene, self.shadow)
        self._resets: Final = [each.reset for each in self.oracles.values() if type(each).reset is not Oracle.reset]
        # What there is to follow: most ops, and most calls, leave nothing.
        self._written: Final = machine.memory.written
        self._refilled: Final = self.shadow.refilled
        self._shadowed: Final = any(oracle.shadowed for oracle in self.oracles.values())
        self._planted: Final = planted
        self._auditing = False
        self._dead = False
        self._handling = False
        self._observers: Final = tuple(observers)
        self._handle_exit: Final = hypervisor.handle_exit
        # Who looks at each access and each flush, but only in a run that is looked at closely.
        self._closer: Final = [
            watcher(scene, self.shadow) for watcher in (AccessLog, FlushOrder, Growth) if watcher.oracle in self.oracles
        ]
        self._closely = False
        self._forwarded: Final = {
            closely: {moment: self._listeners(moment, closely=closely) for moment in _FORWARDED}
            for closely in (False, True)
        }
        self._forward()
        self._call_started = self._listeners("call_started")
        self._unusual_copies = self._listeners("unusual_copies")
        self._call_finished = self._listeners("call_finished")
        self._shadow_changed = self._listeners("shadow_changed")
        self._exit_started = self._listeners("exit_started")
        self._exit_finished = self._listeners("exit_finished")
        self._trap_started = self._listeners("trap_started")
        self._trap_finished = self._listeners("exit_finished", "trap_finished")
        self._reentrant_exit = self._listeners("reentrant_exit")
        self._calls.invalid_copy = self._listeners("invalid_copy")
        self._calls.foreign_copy = self._listeners("foreign_copy")
        self._calls.dma_or_foreign_access = self._listeners("dma_or_foreign_access")
        self._calls.guest_load = self._listeners("guest_load")
        self._op_started = self._listeners("op_started")
        self._op_finished = {closely: self._listeners("op_finished", closely=closely) for closely in (False, True)}

    def watch_closely(self, closely: bool) -> None:
        """From here on look at each access of the host's to memory, and at each flush, or at no such thing.

        It costs much, and finds what the hypervisor does without saying so. To be called before each run, when the
        machine was put back.
        """
        if closely != self._closely:
            self._closely = closely
            self._forward()
        elif not closely:
            return
        for watcher in self._closer:
            watcher.hook(closely)
        self._listen()

    def _listen(self) -> None:
        """Hear what the host says."""
        host = self.hypervisor.host
        # The most frequent moment of all costs nothing when nobody listens to it.
        host.watch(SILENT if self.host_access is nothing else self)
        host.observer = self

    def _forward(self) -> None:
        """Pass on what the hypervisor says."""
        for moment, listener in self._forwarded[self._closely].items():
            setattr(self, moment, listener)

    def _listeners(self, moment: str, after: str = "", closely: bool = False) -> Listener:
        """What to call at `moment`: the oracles that define it, then the observers that override it.

        With `after`, a moment of the same parameters, each oracle is told of that one too.
        """
        # First of all the calls: the oracles may ask what runs.
        watchers = [self._calls, *self.oracles.values()] if self.oracles else []
        if closely:
            watchers += self._closer
        moments = (moment, after) if after else (moment,)
        listeners = [
            listener for watcher in watchers for each in moments if (listener := self._listener(watcher, each))
        ]
        if moment == "host_access" and not listeners and self._shadowed:
            listeners = [self.shadow.host_access]
        if hasattr(Observer, moment):
            listeners += [listener for observer in self._observers if (listener := self._listener(observer, moment))]
        return together(moment, listeners)

    @staticmethod
    def _listener(watcher: Any, moment: str) -> Listener | None:
        """What `watcher` does at `moment`; None if that is nothing. Who knows frames is told of each in a block."""
        listener: Listener | None = getattr(watcher, moment, None)
        inherited = listener is not None and getattr(type(watcher), moment, None) is getattr(Observer, moment, nothing)
        if listener is not None and listener is not nothing and not inherited:
            return listener
        if moment in OF_FRAMES:
            moment_of_frame, each = OF_FRAMES[moment]
            one = OracleSuite._listener(watcher, moment_of_frame)
            return None if one is None else each(one)
        return None

    def attach(self) -> None:
        """Start to watch the machine as it is now: this state is the base that `reset` returns to."""
        self.machine.memory.written.clear()
        if self._shadowed:
            self.shadow.attach()
        for oracle in self.oracles.values():
            oracle.attach()
        self._listen()
        accessed = self._listeners("memory_access")
        self.machine.access_observer = None if accessed is nothing else accessed

    def reset(self) -> None:
        """The machine was put back to its snapshot: forget the run."""
        self.findings = []
        self._seen.clear()
        self._op = -1
        self._operation = _BOOT
        self._auditing = False
        self._dead = False
        self._handling = False
        self._calls.reset()
        if self._shadowed:
            self.shadow.reset()
        for reset in self._resets:
            reset()
        for watcher in self._closer:
            watcher.reset()

    # The program.

    def op_started(self, index: int, operation: str, acting: tuple[tuple[int, int], ...] | None = None) -> None:
        """Op number `index` of the program, of the kind `operation`, is about to be performed.

        `acting` are the vCPUs that may act in it, as (domain, index); None: any of them.
        """
        self._op = index
        self._operation = operation
        self._calls.acting = acting
        self._calls.exiting = NO_DOMAIN  # Whatever became of the last exit.
        self._op_started()

    def op_finished(self) -> None:
        """The op, and what raced with it, is done."""
        if not self._dead:
            try:
                if self._written or self._refilled or self._calls.applied or self.shadow.stored:
                    self._settle()
                self._op_finished[self._closely]()
            except Exception as error:
                self._lost(error)

    def program_finished(self) -> None:
        """The last op is done: nothing is expected after this but `audit` and `reset`."""
        if not self._dead:
            try:
                self._settle()
            except Exception as error:
                self._lost(error)

    def audit(self) -> None:
        """Look at everything anew; what that finds, and watching did not, is a finding of the oracle `audit`."""
        if self._dead:
            return
        self._operation = _AUDIT
        self._calls.current = self._calls.idle
        self._auditing = "audit" in self.oracles
        try:
            for oracle in self.oracles.values():
                oracle.audit()
        except Exception as error:
            self._lost(error)
        self._auditing = False

    def _lost(self, error: Exception) -> None:
        """An oracle failed. In a state that is broken already that is no wonder, and no news; else it is our error."""
        if not self.findings:
            if not self._planted:
                raise error
            self._report("specification", "state", f"an oracle can make no sense of what there is: {error!r}")
        self._dead = True

    # The host.

    def handle_exit(self, vcpu: VCpu) -> None:
        """Let the hypervisor handle an exit of `vcpu`, watched."""
        if self._handling:
            self._reentrant_exit(vcpu)
        self._handling = True
        self._exit_started(vcpu)
        if vcpu.vmcs.reason is VMCALL:
            self._handle_exit(vcpu)
            self._exit_finished(vcpu)
        else:
            self._trap_started(vcpu)
            self._handle_exit(vcpu)
            self._trap_finished(vcpu)
        self._calls.exiting = NO_DOMAIN
        self._handling = False

    def host_exception(self, fault: Exception) -> None:
        """`fault` escaped the hypervisor's code, which has died of it, in the middle of whatever it did.

        A fault of an oracle's own says nothing about the host: it is raised again, unless the state is broken.
        """
        if _raised_here(fault):
            self._lost(fault)
            return
        for oracle in self.oracles.values():
            oracle.host_exception(fault)
        self._dead = True

    def host_access(self, hpa: int, size: int, write: bool) -> None:
        """See `Observer`. (Each suite has its own listener in place of this.)"""

    def call_started(self, vcpu: VCpu, declaration: Declaration | None, args: Any) -> None:
        """See `Observer`."""
        self._calls.started(vcpu, declaration, args)
        self._call_started(vcpu, declaration, args)

    def call_finished(self, vcpu: VCpu, declaration: Any, args: Any, status: Any, result: int, reason: str) -> None:
        """See `Observer`."""
        calls = self._calls
        if calls.copying is not None:
            calls.written()
        if self._shadowed and (self._written or self._refilled or calls.applied or self.shadow.stored):
            self._settle()
        call = calls.current
        struct = call.struct
        # Nearly always: a header, the body that follows it, and nothing else.
        if (
            call.reads
            or call.writes
            or call.transfers
            or len(struct) != STRUCT_PIECES
            or struct[0][0] + len(struct[0][1]) != struct[1][0]
        ):
            self._unusual_copies(vcpu, declaration, args)
        self._call_finished(vcpu, declaration, args, status, result, reason)
        calls.finished(status, result)

    def _settle(self) -> None:
        """Bring the shadow of the tables up to date, and let the oracles look at what changed."""
        if self._shadowed:
            change = self.shadow.update()
            if change is not None:
                self._shadow_changed(change)

    def _report(self, oracle: str, rule: str, message: str) -> None:
        """Keep the first finding of each identity; a call within an op is what the finding is named after."""
        operation = self._operation
        call = self._calls.current
        if call is not self._calls.idle:
            operation = _UNKNOWN_CALL if call.declaration is None else call.declaration.name
        if self._auditing and oracle != _AUDIT:
            if any(seen[:2] == (oracle, rule) for seen in self._seen):
                return
            oracle, rule = _AUDIT, f"{oracle}.{rule}"
        key = (oracle, rule, operation)
        if key not in self._seen:
            self._seen[key] = None
            self.findings.append(Finding(oracle, rule, operation, message, self._op))


def _raised_here(fault: BaseException) -> bool:
    """Whether the exception comes from an oracle, called by the hypervisor as its observer.

    Hardware, looked at or not, raises for whoever asked it: what counts is the innermost code that is not hardware's.
    """
    raiser = ""
    for frame, _ in traceback.walk_tb(fault.__traceback__):
        module = frame.f_globals.get("__name__", "")
        if not module.startswith(_HARDWARE):
            raiser = module
    return raiser.startswith(_PACKAGE)
