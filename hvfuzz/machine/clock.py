"""Virtual time: one cycle counter, and the documented table of what things cost.

The figures are round ones of the right order for a Skylake-class server. Nothing depends on their exact
values; what matters is that they are fixed, so that a program always takes the same time, and that their ratios
are realistic, so that the work bounds and the guest-visible time that derive from them are.
"""

from typing import Final


class Cost:
    """Cycles charged for an event, each with where its order of magnitude comes from."""

    TLB_HIT: Final = 4
    """A translation from the TLB, and the access that it is for: an L1 hit (Intel Optimization Manual, 2.6)."""
    WALK_REFERENCE: Final = 15
    """One paging-structure reference: about an L2 hit (Intel Optimization Manual, 2.6)."""
    INSTRUCTION: Final = 1
    """An instruction with no cost of its own."""
    PRIVILEGED: Final = 30
    """Serialising register moves, RDMSR/WRMSR, CLI/STI (uops.info, Skylake)."""
    SYSCALL: Final = 80
    """SYSCALL or SYSRET (uops.info, Skylake; without mitigations)."""
    EXCEPTION: Final = 400
    """Delivery of an exception through the IDT (Fog, Instruction tables)."""
    PAUSE: Final = 140
    """PAUSE since Skylake (Intel Optimization Manual, 2.6)."""
    VMEXIT: Final = 700
    """State saved, host state loaded: most of the about 1,200 of kvm-unit-tests' `vmexit cpuid`."""
    VMENTRY: Final = 500
    """VMRESUME with its checks: the rest of that round trip."""
    FLUSH: Final = 200
    """INVLPG, INVPCID, INVVPID, INVEPT or an IOTLB invalidation (uops.info; LKML figures for INVPCID)."""
    COPY_PER_64B: Final = 8
    """Copying one cache line, both sides in the L2 cache."""


class Clock:
    """Virtual cycles since boot; whoever does work adds its cost: `clock.cycles += Cost.X`."""

    __slots__ = ("cycles",)

    def __init__(self) -> None:
        self.cycles: int = 0
