"""The emulated hypervisor as a target: one booted system for each world, and the planted bug."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Final, Self

from hvfuzz.abi.boot import WORLDS, World
from hvfuzz.bugs import Bug, Plant
from hvfuzz.guest.program.ops import Catalogue, catalogue
from hvfuzz.guest.program.program import Program
from hvfuzz.guest.run.interpreter import Interpreter
from hvfuzz.guest.run.trace import Trace
from hvfuzz.hypervisor.core.boot import BOOT_SECRET
from hvfuzz.hypervisor.core.host import HostFault
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.machine.machine import Machine
from hvfuzz.oracles.framework.fault_origin import fault_text, is_interrupt
from hvfuzz.oracles.framework.finding import Finding
from hvfuzz.targets.emulated.booted_system import System
from hvfuzz.targets.emulated.stack_limit import StackLimit
from hvfuzz.targets.emulated.watchdog import LIMIT, Hang, Watchdog
from hvfuzz.targets.run_observer import RunObserver
from hvfuzz.targets.target import Run

MEMORY_SIZE: Final = 16 << 20
"""Bytes of host memory, by default."""


HOST: Final = ("hvfuzz.hypervisor.", "hvfuzz.machine.")
"""Packages of the emulated host. A bug planted elsewhere is one of hvfuzz itself."""


def _dead_at_boot(fault: BaseException) -> Run:
    """The result of a program on a hypervisor that a planted bug stops at boot."""
    rule = "fault" if isinstance(fault, HostFault) else f"exception:{type(fault).__name__}"
    return _stopped_at_boot(Finding("host_memory", rule, "boot", fault_text(fault), -1))


def _stopped_at_boot(finding: Finding) -> Run:
    trace = Trace()
    trace.stopped = "the host died at boot"
    return Run(trace, (finding,), (), 0)


class EmulatedTarget:
    """The emulated hypervisor, with one bug planted or none; the bug is in place only while a program runs.

    `oracles` names the oracles to run (None: all; the empty set: none). `observer` gets the events of each run. An op,
    or a boot with a planted bug, that takes more than `hang_seconds` of processor time is a finding. A world is booted
    when it is first used. With `mutated`, the caller has changed the code of the host: what it raises is a finding, as
    with a planted bug. Canaries derive from `secret`; `prepare` is called once for each booted world.
    `interpreter` makes what executes programs; `worlds` are booted for the world numbers of programs.
    """

    def __init__(
        self,
        bug: Bug | None = None,
        *,
        memory_size: int = MEMORY_SIZE,
        oracles: frozenset[str] | None = None,
        observer: RunObserver | None = None,
        hang_seconds: float = LIMIT,
        mutated: bool = False,
        secret: int = BOOT_SECRET,
        prepare: Callable[[Hypervisor], None] | None = None,
        interpreter: Callable[[Machine, Catalogue, World], Interpreter] = Interpreter,
        worlds: Sequence[World] = WORLDS,
    ) -> None:
        self.catalogue: Final = catalogue(ABI)
        self.bug: Final = bug
        self._memory_size: Final = memory_size
        self._oracles: Final = oracles
        self._observer: Final = observer
        self._watchdog: Final = Watchdog(hang_seconds)
        self._limit: Final = StackLimit()
        self._systems: Final[dict[int, System]] = {}
        self._secret: Final = secret
        self._prepare: Final = prepare
        self._interpreter: Final = interpreter
        self._worlds: Final = worlds
        self._host_planted: Final = mutated or (bug is not None and bug.replaces.startswith(HOST))
        self._planted: Final[AbstractContextManager[None]] = nullcontext() if bug is None else Plant(bug)

    def system(self, world: int) -> System:
        """The booted system of world number `world`."""
        system = self._systems.get(world)
        if system is None:
            with self._limit, self._planted, self._watchdog:
                system = System(
                    self._worlds[world],
                    self._memory_size,
                    self.catalogue,
                    self._oracles,
                    self._observer,
                    self._watchdog,
                    planted=self._host_planted,
                    secret=self._secret,
                    prepare=self._prepare,
                    interpreter=self._interpreter,
                )
            self._systems[world] = system
        return system

    def run(self, program: Program, *, audit: bool = True, digest: bool = False) -> Run:
        """Execute `program` from the booted state of its world; see `Target.run`."""
        try:
            system = self.system(program.world)
        except (OSError, MemoryError):
            raise  # this machine has too little memory for the emulated one; no bug asks the system for anything
        except Hang:
            message = f"the host did not boot within {self._watchdog.limit:.0f} s of processor time"
            return _stopped_at_boot(Finding("work", "hang", "boot", message, -1))
        except BaseException as fault:
            if not self._host_planted or is_interrupt(fault):
                raise
            return _dead_at_boot(fault)
        with self._limit, self._planted:
            try:
                system.restore()
            except Exception:
                if not self._host_planted:
                    raise
                # The last program has broken more than what a snapshot holds, such as the attributes of an object.
                del self._systems[program.world]
                system = self.system(program.world)
                system.restore()
            return system.run(program, audit, digest)

    def close(self) -> None:
        """Release the booted systems."""
        self._systems.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
