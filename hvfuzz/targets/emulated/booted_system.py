"""One booted world of the emulated hypervisor: machine, hypervisor and oracles, restored before every run."""

import _thread
import hashlib
from collections.abc import Callable
from typing import Final

from hvfuzz.abi.boot import World
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import Op, Program
from hvfuzz.guest.run.interpreter import HostBusy, HostStopped, Interpreter
from hvfuzz.guest.run.trace import Outcome, Trace
from hvfuzz.hypervisor.core.boot import BOOT_SECRET, boot
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.core.observer import Observer
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE
from hvfuzz.machine.cpu.faults import INVALID_CONTROL, VmEntryFailure
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.machine import Machine
from hvfuzz.machine.mmu.ept import is_valid_eptp
from hvfuzz.machine.snapshot import Snapshot
from hvfuzz.oracles.framework.fault_origin import fault_text, is_interrupt
from hvfuzz.oracles.framework.finding import Finding
from hvfuzz.oracles.framework.suite import OracleSuite
from hvfuzz.targets.emulated import firmware_trials
from hvfuzz.targets.emulated.state_features import StateFeatures
from hvfuzz.targets.emulated.watchdog import Hang, Watchdog
from hvfuzz.targets.run_observer import RunObserver
from hvfuzz.targets.target import Run


class System:
    """A booted world: machine, hypervisor, oracles, and the snapshot that every run starts from."""

    def __init__(
        self,
        world: World,
        memory_size: int,
        ops: Catalogue,
        oracles: frozenset[str] | None,
        observer: RunObserver | None,
        watchdog: Watchdog,
        *,
        planted: bool = False,
        secret: int = BOOT_SECRET,
        prepare: Callable[[Hypervisor], None] | None = None,
        interpreter: Callable[[Machine, Catalogue, World], Interpreter] = Interpreter,
    ) -> None:
        self.hypervisor: Final[Hypervisor] = boot(world, memory_size, secret)
        if prepare is not None:
            prepare(self.hypervisor)
        self.machine: Final[Machine] = self.hypervisor.machine
        self.interpreter: Final = interpreter(self.machine, ops, world)
        self._vcpus: Final[dict[tuple[int, int], VCpu]] = {
            (each.domain, each.index): each for each in self.machine.vcpus
        }
        self.features: Final = StateFeatures(self.machine, self.hypervisor)
        self.observer: Final = observer
        self.watchdog: Final = watchdog
        self._planted: Final = planted
        observers: tuple[Observer, ...] = (self.features,) if observer is None else (self.features, observer)
        self.suite: Final = OracleSuite(self.machine, self.hypervisor, world, oracles, observers, planted=planted)
        self.suite.attach(firmware_trials.readings())
        handle_exit: Callable[[VCpu], None] = self.suite.handle_exit
        self._watched: Final = bool(self.suite.oracles) or observer is not None
        if observer is not None:
            observer.attach(self.machine, self.suite)
            self.suite.log.witness = observer.found
        elif not self._watched:
            # Without oracles the suite reports nothing, so it is bypassed, and only state features cost time.
            self.hypervisor.observer = self.features
            handle_exit = self.machine.exit_handler
        self._in_host = False
        eptps = [vcpu.eptp for vcpu in self.machine.vcpus]

        def guarded(vcpu: VCpu) -> None:
            """Handle an exit; an exception that escapes from the host's code stops the host, and is a finding."""
            if self._in_host:
                raise HostBusy
            self._in_host = True
            if observer is not None:
                observer.exit_started(vcpu)
            try:
                handle_exit(vcpu)
                if vcpu.eptp != eptps[vcpu.id] and not is_valid_eptp(vcpu.eptp):
                    raise VmEntryFailure(INVALID_CONTROL)  # VM entry would raise it where no code handles it
            except Hang:
                raise
            except BaseException as fault:  # whatever stopped the host: an oracle classifies it
                if is_interrupt(fault):
                    raise
                self.suite.host_exception(fault)
                raise HostStopped from fault
            finally:
                self._in_host = False

        self.machine.exit_handler = guarded
        self.snapshot: Final = Snapshot.take(self.machine, self.hypervisor)

    def restore(self) -> None:
        """Restore the booted state; the time depends on how much the last run changed."""
        self.snapshot.restore()
        self.suite.reset()
        self.features.reset()

    def run(self, program: Program, audit: bool, digest: bool) -> Run:
        """Run `program` after `restore`; see `Target.run`."""
        if self._watched:
            self.suite.watch_closely(audit)
        suite, features, observer, watchdog = self.suite, self.features, self.observer, self.watchdog
        if observer is not None:
            observer.begin()
        watched, vcpus = self._watched, self._vcpus
        at = 0
        threads = _thread._count()

        def before(index: int, op: Op) -> None:
            nonlocal at
            at = index
            watchdog.beat += 1
            if watched:
                vcpu = vcpus.get(op.actor)
                suite.op_started(index, op.kind.name, () if vcpu is None else (vcpu.id,))
            if observer is not None:
                observer.op_started(index, op)

        def after(index: int, op: Op, outcomes: list[Outcome]) -> None:
            if watched:
                suite.op_finished()
            last = outcomes[-1]
            vcpu = vcpus.get(op.actor)
            features.op_finished(last.code, last.how, last.status, vcpu is not None and vcpu.cpl != 0)
            if observer is not None:
                observer.op_finished(program, outcomes, suite.findings)

        def racing(vcpu: VCpu, begins: bool) -> None:
            (suite.race_started if begins else suite.race_finished)(vcpu)

        def waking(number: int, begins: bool) -> None:
            (suite.device_started if begins else suite.device_finished)(number)

        told = (racing, waking) if watched else (None, None)
        try:
            with watchdog:
                trace = self.interpreter.run(program, before, after, *told)
                suite.program_finished()
                if audit and not trace.stopped:
                    # After a host fault the machine is in the middle of a change: an audit would report false errors.
                    suite.audit()
        except Hang:
            message = f"the host did not finish the op within {watchdog.limit:.0f} s of processor time"
            return self._cut_short(Finding("work", "hang", program.ops[at].kind.name, message, at), "an op did not end")
        except BaseException as fault:
            # The host has left the machine, or a register, in a state in which nothing goes on.
            if not self._planted or is_interrupt(fault):
                raise
            rule = f"exception:{type(fault).__name__}"
            operation = program.ops[at].kind.name if program.ops else "boot"
            message = f"the machine cannot go on after what the host did: {fault_text(fault)}"
            return self._cut_short(Finding("host_memory", rule, operation, message, at), "the machine cannot go on")
        if _thread._count() > threads:
            message = "the host started a thread, which runs beside its vCPUs"
            return self._cut_short(
                Finding("host_memory", "thread", program.ops[at].kind.name, message, at), "the host started a thread"
            )
        if observer is not None:
            observer.findings(suite.findings)
        if digest:
            trace.final = self.memory_digest()
        return Run(trace, tuple(suite.findings), tuple(features.hits), len(trace.outcomes), suite.excuses.counted)

    def _cut_short(self, finding: Finding, why: str) -> Run:
        """The result of a run that ended within the op of `finding`, because of `why`."""
        trace = Trace()
        trace.stopped = why
        known = {each.identity for each in self.suite.findings}
        findings = (*self.suite.findings, *(() if finding.identity in known else (finding,)))
        if self.observer is not None:
            self.observer.findings(findings)
        return Run(trace, findings, tuple(self.features.hits), finding.op + 1)

    def memory_digest(self) -> str:
        """SHA-256 of the frames written since boot, each with its number, in ascending order."""
        memory = self.machine.memory
        digest = hashlib.sha256()
        for hfn in sorted(memory.dirty):
            digest.update(hfn.to_bytes(8, "little"))
            digest.update(memory.read(hfn << PAGE_SHIFT, PAGE_SIZE))
        return digest.hexdigest()
