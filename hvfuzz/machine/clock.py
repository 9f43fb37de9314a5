"""Virtual time: one cycle counter, and the documented table of what things cost.

The figures are round ones of the right order for a Skylake-class server. Nothing depends on their exact
values; what matters is that they are fixed, so that a program always takes the same time, and that their ratios
are realistic, so that the work bounds and the guest-visible time that derive from them are.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

DOCUMENTED: Final = "documented"
"""The vendor's manual gives the figure."""
MEASURED: Final = "measured"
"""Published measurements give it, to a third or so."""
ORDER: Final = "order of magnitude"
"""One figure stands for things that differ several times over, or the sources do."""


class Figure(NamedTuple):
    """One line of the cost table."""

    cycles: int
    what: str
    source: str
    certainty: str
    """DOCUMENTED, MEASURED or ORDER."""


def _figure(cycles: int, what: str, source: str, certainty: str) -> int:
    """A line of the table, which `_table` takes apart: to whoever charges, it is the plain number of cycles."""
    line: Any = Figure(cycles, what, source, certainty)
    return line  # type: ignore[no-any-return]


def _table(costs: type) -> type["Cost"]:
    """Leave the cycles in the attributes of `costs`, and the lines in `figures`."""
    lines = {name: line for name, line in vars(costs).items() if isinstance(line, Figure)}
    for name, line in lines.items():
        setattr(costs, name, line.cycles)
    costs.figures = MappingProxyType(lines)  # type: ignore[attr-defined]
    return costs


@_table
class Cost:
    """Cycles charged for an event."""

    figures: Mapping[str, Figure]
    """The table, by name."""

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
        "an instruction with no cost of its own",
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
        "kvm-unit-tests, vmexit cpuid: exit and entry about 1,200 on Skylake; how that divides is ours",
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
    """Virtual cycles since boot; whoever does work adds its cost: `clock.cycles += Cost.X`."""

    __slots__ = ("cycles",)

    def __init__(self) -> None:
        self.cycles: int = 0
