"""All oracles of one system: they listen to machine and hypervisor together, and their findings come out here.

The suite is the hypervisor's `Observer`. It passes each event on to the listeners that `Subscriptions` found, keeps the
call stack and the shadow up to date, and decides what an exception of an oracle means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from hvfuzz.hypervisor.core import exits
from hvfuzz.hypervisor.core.observer import SILENT, Observer
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.oracles.framework.access_filter import AccessFilter
from hvfuzz.oracles.framework.all_oracles import make_close_watchers, make_oracles
from hvfuzz.oracles.framework.fault_origin import fault_line, raised_by_an_oracle
from hvfuzz.oracles.framework.finding_log import AUDIT, SCENE, FindingLog
from hvfuzz.oracles.framework.listeners import nothing
from hvfuzz.oracles.framework.oracle import Oracle
from hvfuzz.oracles.framework.subscriptions import RaisedEvents, Subscriptions
from hvfuzz.oracles.principal.attribution import Attribution
from hvfuzz.oracles.scene.call_stack import CallStack
from hvfuzz.oracles.scene.scene import Scene
from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

if TYPE_CHECKING:
    from hvfuzz.abi.boot import World
    from hvfuzz.abi.declaration import Declaration
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.machine.machine import Machine
    from hvfuzz.oracles.framework.finding import Finding

VMCALL: Final = ExitReason.VMCALL


class OracleSuite(RaisedEvents):
    """The oracles named in `enabled` (all, if None), attached to one machine and its hypervisor.

    `attach` once, when the system is booted and before its snapshot is taken. Then for each program: `reset` (after
    the machine was put back), `op_started` and `op_finished` around each op, `program_finished`, perhaps `audit`.
    `findings` has the first finding of each identity, in order. `observers` get the hypervisor's events as well.
    VM exits must go through `handle_exit`.

    An oracle that raises an exception can make no sense of what the hypervisor did. That is a finding if a bug is
    `planted` or something was found before; it is silent for the rest of the run, and the other oracles go on. Else it
    is an internal error, which is raised.
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
        self.machine: Final = machine
        self.hypervisor: Final = hypervisor
        self._calls: Final = CallStack(machine, hypervisor)
        self._attribution: Final = Attribution(self._calls)
        self.log: Final = FindingLog(self._calls)
        scene = Scene(machine, hypervisor, world, self._calls, self.log.report, self._oracle_failed, self.log.failures)
        self.excuses: Final = scene.excuses
        self.shadow: Final = PageTableShadow(scene)
        self.oracles: Final = make_oracles(scene, self.shadow, enabled)
        self._resets: Final = [each.reset for each in self.oracles.values() if type(each).reset is not Oracle.reset]
        self._shadowed: Final = any(oracle.shadowed for oracle in self.oracles.values())
        self._written: Final = machine.memory.written  # Most ops, and most calls, leave nothing to follow.
        self._refilled: Final = self.shadow.refilled
        self._planted: Final = planted
        self._dead = False
        self._handling = False
        self._close_watchers: Final = make_close_watchers(scene, self.shadow, self.oracles)
        self._closely = False
        self._subscribe(AccessFilter(scene), tuple(observers))

    def _subscribe(self, access_filter: AccessFilter, observers: tuple[Observer, ...]) -> None:
        """Make the functions that are called at each event."""
        listeners = Subscriptions(
            # The call stack comes first: the oracles may ask which call runs.
            [(SCENE, self._calls), (SCENE, access_filter), *self.oracles.items()] if self.oracles else [],
            [(watcher.oracle, watcher) for watcher in self._close_watchers],
            observers,
            self.shadow.host_access if self._shadowed else None,
            self._oracle_failed,
        )
        self._attribution.misnamed = listeners.of("misnamed")
        self._events = {closely: listeners.methods(closely=closely) for closely in (False, True)}
        for methods in self._events.values():
            methods["guest_copy"] = self._attribution.copies_for(methods["guest_copy"])
        self._pass_on()
        access_filter.invalid_copy = listeners.of("invalid_copy")
        access_filter.foreign_copy = listeners.of("foreign_copy")
        access_filter.dma_or_foreign_access = listeners.of("dma_or_foreign_access")
        access_filter.guest_load = listeners.of("guest_load")
        self._memory_access = listeners.of("memory_access")

    @property
    def findings(self) -> list[Finding]:
        """The first finding of each identity, in order."""
        return self.log.findings

    def watch_closely(self, closely: bool) -> None:
        """Switch the close watchers on or off, before a run, when the machine was put back.

        They look at each access of the hypervisor to memory and at each flush. That is slow, and finds what the
        hypervisor does without announcing it.
        """
        self.excuses.closely = closely
        if closely != self._closely:
            self._closely = closely
            self._pass_on()
        elif not closely:
            return
        for watcher in self._close_watchers:
            watcher.hook(closely)
        self._listen()

    def _listen(self) -> None:
        """Become the observer of the hypervisor."""
        host = self.hypervisor.host
        # `host_access` is the most frequent event: without listeners it must cost nothing.
        host.watch(SILENT if self.host_access is nothing else self)
        host.observer = self

    def _pass_on(self) -> None:
        """Let the functions that call the listeners be the methods of this observer."""
        for name, listener in self._events[self._closely].items():
            setattr(self, name, listener)

    def attach(self, firmware: Mapping[str, Any] | None = None) -> None:
        """Check the booted machine, and start to watch it: this state is the base that `reset` returns to.

        What is wrong is a finding of each run, with the operation `boot`. `firmware`: see `firmware_checks`.
        """
        self.machine.memory.written.clear()
        if self._shadowed:
            self.shadow.attach()
        for oracle in self.oracles.values():
            oracle.attach()
        if firmware is not None and (specification := self.oracles.get("specification")) is not None:
            specification.firmware_read(firmware)  # type: ignore[attr-defined]
        # What holds at all times holds after boot. The oracle `audit` only compares two shadows, and the first is new.
        for name, oracle in self.oracles.items():
            if name != AUDIT:
                self._audit(name, oracle)
        self.log.booted()
        self._listen()
        self.machine.access_observer = None if self._memory_access is nothing else self._memory_access

    def reset(self) -> None:
        """Forget the run, after the machine was put back to its snapshot."""
        self.log.reset()
        self.excuses.reset()
        self._dead = False
        self._handling = False
        self._calls.reset()
        if self._shadowed:
            self.shadow.reset()
        for reset in self._resets:
            reset()
        for watcher in self._close_watchers:
            watcher.reset()

    # The program.

    def op_started(self, index: int, operation: str, acting: tuple[int, ...] | None = None) -> None:
        """Op number `index` of the program, of the kind `operation`, is about to be performed.

        `acting` are the ids of the vCPUs that act in it, beside those that race it; None: any of them.
        """
        self.log.op = index
        self.log.operation = operation
        self._calls.acting = acting
        self._calls.exit_ended()  # The last exit may have ended in an exception.

    def op_finished(self) -> None:
        """The op and its races are done."""
        if not self._dead:
            if self._written or self._refilled or self._calls.applied or self.shadow.stored:
                self._follow()
            self._op_finished()

    def program_finished(self) -> None:
        """The last op is done; only `audit` and `reset` may follow."""
        if not self._dead:
            self._follow()

    def audit(self) -> None:
        """Let each oracle check the whole state. What only this check sees is a finding of the oracle `audit`."""
        if self._dead:
            return
        self.log.operation = AUDIT
        self._calls.current = self._calls.idle
        self.log.auditing = AUDIT in self.oracles
        for name, oracle in self.oracles.items():
            self._audit(name, oracle)
        self.log.auditing = False

    def _audit(self, name: str, oracle: Oracle) -> None:
        try:
            oracle.audit()
        except Exception as error:
            self._oracle_failed(name, error)

    def _oracle_failed(self, oracle: str, error: BaseException) -> None:
        """A listener of `oracle` raised `error`: see the class."""
        if isinstance(error, RecursionError) and self._handling:
            raise error  # The host may have used up the stack: `host_exception` decides.
        if not self.findings and not self._planted:
            raise error
        if oracle == SCENE:
            self._dead = True
        self.log.failed(oracle, fault_line(error))

    # The hypervisor.

    def handle_exit(self, vcpu: VCpu) -> None:
        """Let the hypervisor handle an exit of `vcpu`, watched."""
        if self._handling:
            self._reentrant_exit(vcpu)
        self._handling = True
        self._exit_started(vcpu)
        if vcpu.vmcs.reason is VMCALL:
            exits.handle_exit(self.hypervisor, vcpu)
            self._exit_finished(vcpu)
        else:
            self._trap_started(vcpu)
            exits.handle_exit(self.hypervisor, vcpu)
            self._trap_finished(vcpu)
        self._calls.exit_ended()
        self._handling = False

    def host_exception(self, fault: BaseException) -> None:
        """`fault` escaped from the hypervisor's code, which is dead from now on.

        If an oracle raised it, it says nothing about the hypervisor: see the class.
        """
        if raised_by_an_oracle(fault):
            self._handling = False
            self._dead = True
            self._oracle_failed(SCENE, fault)
            return
        for watcher in (*self.oracles.values(), *(self._close_watchers if self._closely else ())):
            watcher.host_exception(fault)
        self._dead = True

    def host_access(self, hpa: int, size: int, write: bool) -> None:
        """Defined here because `Host.watch` looks at the class; `_pass_on` replaces it in each instance."""

    def call_started(self, vcpu: VCpu, declaration: Declaration | None, args: Any) -> None:
        """See `Observer`. All listeners are told the vCPU whose exit it is, whatever name the hypervisor gives."""
        if vcpu is not self._calls.principal:
            vcpu = self._attribution.judged("call", vcpu, "starts a call")
        self._calls.started(vcpu, declaration, args)
        self._call_started(vcpu, declaration, args)

    def call_finished(self, vcpu: VCpu, declaration: Any, args: Any, status: Any, result: int, reason: str) -> None:
        """See `Observer`, and `call_started`."""
        calls = self._calls
        if vcpu is not calls.principal:
            vcpu = self._attribution.judged("call", vcpu, "ends a call")
        if calls.copying is not None:
            calls.guest_written()
        if self._shadowed and (self._written or self._refilled or calls.applied or self.shadow.stored):
            self._follow()
        if calls.current.copied_more():
            self._unusual_copies(vcpu, declaration, args)
        self._call_finished(vcpu, declaration, args, status, result, reason)
        calls.finished(status, result)

    def _follow(self) -> None:
        """Bring the shadow up to date, and tell the oracles what changed."""
        if self._shadowed:
            try:
                change = self.shadow.update()
            except Exception as error:
                self._oracle_failed(SCENE, error)
                return
            if change is not None:
                self._shadow_changed(change)
