"""Virtual time: one cycle counter, and a table of costs with their sources.

The figures are rounded and of the right order for a Skylake-class server. Nothing depends on their exact values. They
are fixed, so that a program always takes the same time, and their ratios are realistic, so that work bounds and
guest-visible time are realistic, too.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

DOCUMENTED: Final = "documented"
"""The vendor's manual states the figure."""
MEASURED: Final = "measured"
"""Published measurements give the figure, within about a third."""
ORDER: Final = "order of magnitude"
"""The events that share the figure, or the sources, differ by a factor of several."""


class Figure(NamedTuple):
    """One line of the cost table."""

    cycles: int
    what: str
    source: str
    certainty: str
    """DOCUMENTED, MEASURED or ORDER."""


def _figure(cycles: int, what: str, source: str, certainty: str) -> int:
    """A line of the table. `_table` replaces it by its number of cycles; the declared type is already that."""
    line: Any = Figure(cycles, what, source, certainty)
    return line  # type: ignore[no-any-return]


def _table(costs: type) -> type["Cost"]:
    """Put the cycles into the attributes of `costs`, and the lines into `figures`."""
    lines = {name: line for name, line in vars(costs).items() if isinstance(line, Figure)}
    for name, line in lines.items():
        setattr(costs, name, line.cycles)
    costs.figures = MappingProxyType(lines)  # type: ignore[attr-defined]
    return costs


@_table
class Cost:
    """Cycles charged for an event."""

    figures: Mapping[str, Figure]
    """Name -> line of the table."""

    TLB_HIT: Final = _figure(
        4,
        "a translation from the TLB, or a table from the paging-structure caches, and the access: an L1 hit",
        "Intel Optimization Manual, Skylake cache parameters: L1 data, 4 cycles",
        DOCUMENTED,
    )
    WALK_REFERENCE: Final = _figure(
        15,
        "a reference to a paging structure, which is in the L2 cache",
        "Intel Optimization Manual, Skylake cache parameters: L2, 12 to 14 cycles; from memory 200 and more",
        ORDER,
    )
    INSTRUCTION: Final = _figure(
        1,
        "an instruction that has no line in this table",
        "Fog, Instruction tables: one a cycle, or several",
        ORDER,
    )
    PRIVILEGED: Final = _figure(
        30,
        "MOV to CR, RDMSR, WRMSR, CLI, STI",
        "uops.info, Skylake: from below 10 (CLI) to above 100 (WRMSR, MOV to CR3)",
        ORDER,
    )
    SYSCALL: Final = _figure(
        80,
        "SYSCALL or SYSRET, without mitigations",
        "LKML, x86 entry code before page-table isolation: an empty call and back, 100 to 200 cycles",
        ORDER,
    )
    EXCEPTION: Final = _figure(
        400,
        "delivery of an exception through the IDT",
        "half of a fault with its IRET, which figures on LKML (Haswell) put at about 1,000",
        ORDER,
    )
    PAUSE: Final = _figure(
        140,
        "PAUSE, since Skylake",
        "Intel Optimization Manual, Pause latency in Skylake: as many as 140 cycles",
        DOCUMENTED,
    )
    VMEXIT: Final = _figure(
        700,
        "VM exit: the guest's state saved, the host's loaded",
        "kvm-unit-tests, vmexit cpuid: exit and entry about 1,200 on Skylake; the split is an assumption",
        MEASURED,
    )
    VMENTRY: Final = _figure(
        500,
        "VMRESUME, with its checks",
        "kvm-unit-tests, vmexit cpuid: the rest of that round trip",
        MEASURED,
    )
    FLUSH: Final = _figure(
        200,
        "INVLPG, INVPCID, INVVPID, INVEPT, or an invalidation of the IOMMU's caches",
        "uops.info and LKML (INVPCID patches): 100 to 500 on a CPU; an IOMMU takes a thousand and more",
        ORDER,
    )
    COPY_PER_64B: Final = _figure(
        8,
        "copying one cache line, both sides in the L2 cache",
        "Intel Optimization Manual, Skylake cache parameters: L2, 25 to 64 bytes a cycle; twice, rounded up",
        ORDER,
    )


class Clock:
    """Virtual cycles since boot. The code that models an event adds its cost: `clock.cycles += Cost.X`."""

    __slots__ = ("cycles",)

    def __init__(self) -> None:
        self.cycles: int = 0

    def wait_until(self, cycles: int) -> None:
        """Let time pass until `cycles`; none, if that is over."""
        self.cycles += max(cycles - self.cycles, 0)
