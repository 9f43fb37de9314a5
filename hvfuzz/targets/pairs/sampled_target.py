"""The target of all other harnesses: the oracles judge each program; a sample is run in pairs, and tried with a law."""

from types import TracebackType
from typing import Final, Self

from hvfuzz.bugs import Bug
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import Program
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget
from hvfuzz.targets.harness import Harness
from hvfuzz.targets.laws.law_table import BY_NAME, LAWS
from hvfuzz.targets.laws.law_target import ORACLE as OF_LAWS
from hvfuzz.targets.laws.law_target import LawTarget
from hvfuzz.targets.laws.variant import Law
from hvfuzz.targets.pairs.cause import ORACLE
from hvfuzz.targets.pairs.pair_target import PairTarget
from hvfuzz.targets.run_observer import RunObserver
from hvfuzz.targets.target import Run, Target


class SampledTarget:
    """The emulated hypervisor like `EmulatedTarget`; an audited run in which no oracle finds anything has its pairs.

    If these are alike, a law is tried as well: one change of the program, which the program decides. `observer` gets
    the events of the run that oracles judge. For a replay, `shown` is the identity of the finding to show, "" for any:
    then all changes of the laws that may show it are tried, and the runs that it needs are made whatever else is found.
    """

    def __init__(
        self, bug: Bug | None = None, *, observer: RunObserver | None = None, shown: str | None = None
    ) -> None:
        self._judged: Final = EmulatedTarget(bug, observer=observer)
        self._pairs: Final = PairTarget(bug)
        self._laws: Final = LawTarget(bug, laws=_laws_of(shown), sampled=shown is None)
        self._always: Final = is_of_pairs(shown)
        self._always_laws: Final = is_of_laws(shown)

    @property
    def catalogue(self) -> Catalogue:
        """See `Target.catalogue`."""
        return self._judged.catalogue

    def run(self, program: Program, *, audit: bool = True, digest: bool = False) -> Run:
        """Execute `program`; see `Target.run`. The trace and the features are those of the run that oracles judge."""
        run = self._judged.run(program, audit=audit, digest=digest)
        for target, always in ((self._pairs, self._always), (self._laws, self._always_laws)):
            if always or (audit and not run.findings and not run.trace.stopped):
                known = {finding.identity for finding in run.findings}
                others = target.run(program, audit=audit).findings
                run = run._replace(
                    findings=(*run.findings, *(finding for finding in others if finding.identity not in known))
                )
        return run

    def close(self) -> None:
        """See `Target.close`."""
        self._judged.close()
        self._pairs.close()
        self._laws.close()

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


def is_of_laws(identity: str | None) -> bool:
    """Whether only a law shows the finding `identity`."""
    return identity is not None and identity.startswith(f"{OF_LAWS}/")


def _laws_of(identity: str | None) -> tuple[Law, ...]:
    """The laws that may show the finding `identity`."""
    law = BY_NAME.get(identity.split("/")[1]) if identity is not None and is_of_laws(identity) else None
    return LAWS if law is None else (law,)


def target_that_shows(identity: str | None, bug: Bug | None) -> Target:
    """The target to replay a program against that has the finding `identity`; None if that is not known."""
    if is_of_laws(identity):
        return LawTarget(bug, laws=_laws_of(identity))
    if is_of_pairs(identity):
        return PairTarget(bug)
    return SampledTarget(bug, shown="" if identity is None else None)
