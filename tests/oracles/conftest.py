"""A booted world with oracles attached, legal programs for it, and a way to break it from outside between two ops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.abi.boot import WORLDS
from hvfuzz.guest.format.text import parse
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.guest.program.program import Op, Program
from hvfuzz.guest.run.interpreter import HostBusy, HostStopped, Interpreter
from hvfuzz.guest.run.trace import Outcome, Trace
from hvfuzz.hypervisor.core.boot import boot, guest_address
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.snapshot import Snapshot
from hvfuzz.oracles.framework.suite import OracleSuite
from hvfuzz.oracles.shadow.changes import DMA

CATALOGUE = catalogue(ABI)


class Rig:
    """The world number `world`, watched by the oracles `enabled`."""

    def __init__(self, world: int = 0, enabled: frozenset[str] | None = None) -> None:
        self.hv = boot(WORLDS[world])
        self.machine = self.hv.machine
        self.memory = self.machine.memory
        self.suite = OracleSuite(self.machine, self.hv, WORLDS[world], enabled)
        self.suite.attach()
        self.shadow = self.suite.shadow
        self.name = WORLDS[world].name
        self.interpreter = Interpreter(self.machine, CATALOGUE, WORLDS[world])
        busy: list[int] = []

        def exits(vcpu: VCpu) -> None:
            if busy:
                raise HostBusy
            busy.append(vcpu.id)
            try:
                self.suite.handle_exit(vcpu)
            except Exception as fault:
                self.suite.host_exception(fault)
                raise HostStopped from fault
            finally:
                busy.clear()

        self.machine.exit_handler = exits
        self.snapshot = Snapshot(self.machine, self.hv)

    def restore(self) -> None:
        """Back to the booted state."""
        self.snapshot.restore()
        self.suite.reset()

    def run(self, *lines: str) -> Trace:
        """Run a program of these lines, from the present state on."""
        return self.perform(parse("\n".join(("# hvp 1", f"world {self.name}", *lines, "")), CATALOGUE))

    def perform(self, program: Program) -> Trace:
        """Run a program, from the present state on."""

        def before(index: int, op: Op) -> None:
            self.suite.op_started(index, op.kind.name)

        def after(_index: int, _op: Op, _outcome: Outcome) -> None:
            self.suite.op_finished()

        def racing(vcpu: VCpu, begins: bool) -> None:
            (self.suite.race_started if begins else self.suite.race_finished)(vcpu)

        def waking(number: int, begins: bool) -> None:
            (self.suite.device_started if begins else self.suite.device_finished)(number)

        trace = self.interpreter.run(program, before, after, racing, waking)
        self.suite.program_finished()
        return trace

    def during(self, action: Callable[[], object]) -> list[str]:
        """Do something to the machine within an op called "test"; returns all rules broken so far."""
        self.suite.op_started(0, "test")
        action()
        self.suite.op_finished()
        return self.rules

    def poke(self, hpa: int, value: int) -> list[str]:
        """Write a word, within an op."""
        return self.during(lambda: self.memory.store64(hpa, value))

    @property
    def rules(self) -> list[str]:
        """oracle/rule of each finding, in order."""
        return [f"{finding.oracle}/{finding.rule}" for finding in self.suite.findings]

    # Addresses.

    def entry(self, domain: int, page: int, *, dma: bool = False) -> int:
        """Host physical address of the leaf entry of a page."""
        leaf = self.shadow.find(domain | DMA if dma else domain, page)
        assert leaf is not None
        return leaf.word << 3

    def free_entry(self, domain: int, page: int, *, dma: bool = False) -> int:
        """Host physical address of the entry for an absent page, in a table of leaves that exists."""
        for hfn, table in self.shadow.tables.items():
            covers = table.page <= page < table.page + 512
            if table.level == 1 and table.space == (domain | DMA if dma else domain) and covers:
                return (hfn << PAGE_SHIFT) + (page & 511) * 8
        raise AssertionError(f"no table of leaves for page {page:#x} of dom{domain}")

    def frame(self, domain: int, gfn: int) -> int:
        """The frame that a gfn names."""
        return guest_address(self.hv.domains[domain], gfn) >> PAGE_SHIFT

    def word(self, hfn: int) -> int:
        """Host physical address of the frame's word."""
        return self.hv.frames.base + 8 * hfn

    def in_state(self, state: int) -> int:
        """Hfn of the highest frame in that state."""
        words = self.memory.words
        return max(hfn for hfn in range(self.memory.frames) if words[self.word(hfn) >> 3] >> 8 & 0xFF == state)


@pytest.fixture
def rig() -> Rig:
    """The world "pair", watched by all oracles."""
    return Rig()


@pytest.fixture
def watched() -> Callable[..., Rig]:
    """Makes a rig that only the named oracles watch."""

    def make(*names: str, world: int = 0) -> Rig:
        return Rig(world, frozenset(names))

    return make


@pytest.fixture
def rigs() -> Any:
    """The class of rigs."""
    return Rig
