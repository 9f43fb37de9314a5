"""Counts the lines that the hypervisor's code runs between two preemption points. Helper of the oracle `work`.

Work units count accesses to memory and arrays. A loop that touches neither keeps the host busy as well: its turns are
counted, line by line in functions that loop, which is slow, so in audited runs only.
"""

from __future__ import annotations

import dis
import sys
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from types import CodeType, FrameType

    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

LINES: Final = 30_000
"""Lines that may run between two preemption points, whatever they do, and"""
LINES_PER_UNIT: Final = 60
"""for each unit of work. The corpus needs at most 16,861 lines, for 1,301 units, and 3,499 lines for a few units."""
NOT_THE_HOST: Final = tuple(
    f"hvfuzz.{package}." for package in ("machine", "oracles", "guest", "targets", "explain", "abi")
)
"""Packages whose lines are not counted: hardware, guests and oracles work while the hypervisor does."""


class Turns:
    """Traces the code that handles an exit, and reports the rule `turns` of the oracle."""

    __snapshot_leaf__ = True
    __slots__ = ("_lines", "_report", "_tracing", "_units", "_work")
    oracle = "work"

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        self._report: Final = scene.report
        self._work: Final = scene.hypervisor.host.work
        self._tracing = False
        self._units = 0
        self._lines = 0

    def hook(self, on: bool) -> None:
        """Trace the exits from now on, or no longer."""
        self._stop()

    def reset(self) -> None:
        """Forget the last exit, which may have ended in an exception."""
        self._stop()
        self._lines = self._units = 0

    def _stop(self) -> None:
        if self._tracing:
            self._tracing = False
            sys.settrace(None)

    def host_exception(self, fault: BaseException) -> None:
        """The exit is over."""
        self._stop()

    def exit_started(self, vcpu: VCpu) -> None:
        """Count from zero. A debugger or a measurement of coverage that traces already keeps its hook.

        The hook of another system, whose last exit ended in an exception, is replaced.
        """
        self._lines = 0
        self._units = self._work.units
        hook: Any = sys.gettrace()
        if hook is None or getattr(hook, "__func__", None) is Turns._call:
            self._tracing = True
            sys.settrace(self._call)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Count a call by the host, and decide whether the lines of the function count: without a loop they are few."""
        if not _is_host(frame.f_globals.get("__name__", "")):
            return None  # Most calls end here.
        self._lines += 1
        return self._line if _loops(frame.f_code) else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Count a line."""
        if event == "line":
            self._lines += 1
        return self._line

    def preemption_point(self) -> None:
        """Check what ran since the last one."""
        self._check("")

    def exit_finished(self, vcpu: VCpu) -> None:
        """Check what ran since the last preemption point."""
        self._stop()
        self._check(f" of an exit for {vcpu.vmcs.reason.name}")

    def _check(self, where: str) -> None:
        units = self._work.units - self._units
        bound = LINES + LINES_PER_UNIT * units
        if self._lines > bound:
            text = f"the hypervisor runs {self._lines} lines{where} without a preemption point"
            self._report(self.oracle, "turns", f"{text}, for {units} units of work; the bound is {bound}")
        self._lines = 0
        self._units += units


@cache
def _is_host(module: str) -> bool:
    """Whether the lines of a module count."""
    return not (module.startswith(NOT_THE_HOST) or module.partition(".")[0] in sys.stdlib_module_names)


@cache
def _loops(code: CodeType) -> bool:
    """Whether a function jumps backwards. (Its comprehensions are functions of their own, and seen apart.)"""
    return any("JUMP_BACKWARD" in instruction.opname for instruction in dis.get_instructions(code))
