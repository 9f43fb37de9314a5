"""The interface between engines and a hypervisor, emulated or real, that programs run against."""

from types import TracebackType
from typing import NamedTuple, Protocol, Self

from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import Program
from hvfuzz.guest.run.trace import Trace
from hvfuzz.oracles.framework.finding import Finding


class Run(NamedTuple):
    """The result of one execution of a program."""

    trace: Trace
    findings: tuple[Finding, ...]
    """One finding for each identity, in the order in which the oracles reported them."""
    features: tuple[int, ...]
    """State features: distinct numbers below `state_features.SPACE`."""
    ops: int
    """Number of ops executed, with races and batched calls."""
    excuses: tuple[tuple[str, int], ...] = ()
    """What oracles let pass because they could not know, and how often: see `oracles/scene/excuses.py`."""


class Target(Protocol):
    """A system that runs each program from the same booted state."""

    @property
    def catalogue(self) -> Catalogue:
        """The kinds of ops of its programs."""
        ...

    def run(self, program: Program, *, audit: bool = True, digest: bool = False) -> Run:
        """Execute `program` from the booted state of its world.

        With `audit`, oracles check each memory access of the host during the run, and recompute at its end what they
        tracked incrementally. With `digest`, the trace has a digest of the final contents of memory.
        """
        ...

    def close(self) -> None:
        """Release the target's resources, and remove a planted bug."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
