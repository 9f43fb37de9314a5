"""The target of all other harnesses: the oracles judge each program, and a sample is run in pairs as well."""

from types import TracebackType
from typing import Final, Self

from hvfuzz.bugs import Bug
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import Program
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget
from hvfuzz.targets.harness import Harness
from hvfuzz.targets.pairs.cause import ORACLE
from hvfuzz.targets.pairs.pair_target import PairTarget
from hvfuzz.targets.run_observer import RunObserver
from hvfuzz.targets.target import Run, Target


class SampledTarget:
    """The emulated hypervisor like `EmulatedTarget`; an audited run in which no oracle finds anything has its pairs.

    With `always`, every run has them, whatever is found. `observer` gets the events of the run that oracles judge.
    """

    def __init__(self, bug: Bug | None = None, *, observer: RunObserver | None = None, always: bool = False) -> None:
        self._judged: Final = EmulatedTarget(bug, observer=observer)
        self._pairs: Final = PairTarget(bug)
        self._always: Final = always

    @property
    def catalogue(self) -> Catalogue:
        """See `Target.catalogue`."""
        return self._judged.catalogue

    def run(self, program: Program, *, audit: bool = True, digest: bool = False) -> Run:
        """Execute `program`; see `Target.run`. The trace and the features are those of the run that oracles judge."""
        run = self._judged.run(program, audit=audit, digest=digest)
        if not self._always and (run.findings or run.trace.stopped or not audit):
            return run
        pairs = self._pairs.run(program, audit=audit)
        known = {finding.identity for finding in run.findings}
        found = (finding for finding in pairs.findings if finding.identity not in known)
        return run._replace(findings=(*run.findings, *found))

    def close(self) -> None:
        """See `Target.close`."""
        self._judged.close()
        self._pairs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def target_of(harness: Harness, bug: Bug | None) -> Target:
    """The target that programs of `harness` run against."""
    return PairTarget(bug) if harness.pairs else SampledTarget(bug)


def is_of_pairs(identity: str | None) -> bool:
    """Whether only pairs show the finding `identity`."""
    return identity is not None and identity.startswith(f"{ORACLE}/")


def target_that_shows(identity: str | None, bug: Bug | None) -> Target:
    """The target to replay a program against that has the finding `identity`; None if that is not known."""
    return PairTarget(bug) if is_of_pairs(identity) else SampledTarget(bug)
