"""What a program runs against: the protocol between engines and a hypervisor, emulated or real."""

from types import TracebackType
from typing import NamedTuple, Protocol, Self

from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import Program
from hvfuzz.guest.run.trace import Trace
from hvfuzz.oracles.framework.finding import Finding


class Run(NamedTuple):
    """What one execution of a program gave."""

    trace: Trace
    findings: tuple[Finding, ...]
    """In the order in which the oracles reported them; one of each identity."""
    features: tuple[int, ...]
    """Numbers below `features.SPACE`, one for each thing of interest that happened; repeats count."""
    ops: int
    """Ops executed, races and batched calls included."""


class Target(Protocol):
    """Something that programs run against, always from the same booted state."""

    @property
    def catalogue(self) -> Catalogue:
        """The kinds of ops that its programs are made of."""
        ...

    def run(self, program: Program, *, audit: bool = True, digest: bool = False) -> Run:
        """Execute `program` from the booted state of its world.

        With `audit`, each access of the host's is looked at all the way, and the oracles' full audit cross-checks
        the incremental one at the end; with `digest`, the trace also names the final contents of memory.
        """
        ...

    def close(self) -> None:
        """Give back what the target holds; a planted bug is removed."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
