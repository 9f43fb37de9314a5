"""The target of noninterference: each program is run in pairs, and the first op at which a pair parts is a finding.

The first run is the program. The second differs in the secrets of the host and of domains that do not address the
observer, in what these domains do (their ops are left out), and in the time of each op within the clock's rounding.
Races between domains, and the capacity of the caches of translations, are the same in both (see `channels`).
"""

from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

from hvfuzz.abi.boot import WORLDS
from hvfuzz.bugs import Bug
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import Program
from hvfuzz.hypervisor.core.boot import BOOT_SECRET
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.oracles.framework.finding import Finding
from hvfuzz.oracles.noninterference.channels import DECLARED, Channel
from hvfuzz.oracles.noninterference.observation import first_difference
from hvfuzz.oracles.noninterference.partings import EXCUSED, Parting
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget
from hvfuzz.targets.emulated.watchdog import LIMIT
from hvfuzz.targets.pairs.cause import finding_of
from hvfuzz.targets.pairs.director import Director
from hvfuzz.targets.pairs.other_secrets import OTHER_SECRET, holding, with_room
from hvfuzz.targets.pairs.plans import Plan, plan_of, without_shared_hardware
from hvfuzz.targets.target import Run


class PairTarget:
    """Runs programs in pairs; no other oracle acts. `declared` are the channels that excuse a difference.

    An audited run has a pair for each domain as the observer, and each direction of moving ops in time. Another run has
    one pair, which the program decides, so that the same program always has the same findings.
    """

    def __init__(
        self,
        bug: Bug | None = None,
        *,
        declared: frozenset[Channel] = DECLARED,
        hang_seconds: float = LIMIT,
        mutated: bool = False,
    ) -> None:
        self._bug: Final = bug
        self._declared: Final = declared
        self._hang_seconds: Final = hang_seconds
        self._mutated: Final = mutated
        self._seconds: Final[dict[frozenset[int] | None, tuple[EmulatedTarget, Director]]] = {}
        """The systems of second runs, by the domains that are concealed."""
        self._recorder: Final = Director(declared)
        self._first: Final = self._make(self._recorder, None)
        self._stopped = ""
        """Why the first run ended early, if it did."""
        self.pairs = 0
        """Number of pairs run and compared so far."""
        self.excused = 0
        """Number of those whose comparison a declared channel ended early."""

    @property
    def catalogue(self) -> Catalogue:
        """See `Target.catalogue`."""
        return self._first.catalogue

    def run(self, program: Program, *, audit: bool = True, digest: bool = False) -> Run:
        """Run `program` in pairs; see `Target.run`. The trace and the features are those of the first run."""
        plain = without_shared_hardware(program, self.catalogue)
        self._recorder.record(WORLDS[program.world].name)
        run = self._first.run(plain, audit=False, digest=digest)
        self._stopped = run.trace.stopped
        if run.findings or not plain.ops:
            return run
        partings: list[tuple[Parting, Plan, int]] = []
        ops = run.ops
        for plan in self._plans(plain, audit):
            parting = self._compared(plan)
            ops += len(plain.ops)
            self.pairs += 1
            if parting is not None and parting.rule == EXCUSED:
                self.excused += 1
            elif parting is not None:
                partings.append((parting, plan, self._place(plain, plan, parting)))
        found: dict[tuple[str, str], Finding] = {}
        compare = self._compared if audit else None  # to name the cause takes many runs
        for parting, plan, at in sorted(partings, key=lambda each: each[2]):
            identity = parting.rule, plain.ops[at].kind.name
            if identity not in found:
                found[identity] = finding_of(plain, plan, parting, at, self.catalogue, compare)
        return Run(run.trace, tuple(found.values()), run.features, ops)

    def _plans(self, program: Program, audit: bool) -> Iterator[Plan]:
        domains = len(WORLDS[program.world].domains)
        mark = sum(op.kind.code * (index + 7) for index, op in enumerate(program.ops))
        for observer in range(domains) if audit else (mark % domains,):
            for late in (False, True) if audit else (mark // domains % 2 == 1,):
                yield plan_of(program, observer, domains, self.catalogue, self._declared, late=late)

    def _compared(self, plan: Plan) -> Parting | None:
        """Run the second program of a pair: where it parts from the first run, which was the last recorded."""
        target, director = self._second(plan.concealed)
        director.follow(self._recorder.world, plan, self._recorder.moments)
        run = target.run(plan.program, audit=False)
        if director.parting is not None or run.findings or run.trace.stopped or self._stopped:
            return director.parting
        last = len(plan.program.ops) - 1
        for domain, kept in enumerate(plan.kept):
            if kept == last:
                difference = first_difference(self._recorder.hypervisor, director.hypervisor, domain)
                if difference is not None:
                    return Parting(difference[0], last, domain, *difference[1:], at_end=True)
        return None

    def _place(self, program: Program, plan: Plan, parting: Parting) -> int:
        """The op at which the runs part: for what was seen at the end, by check sums after each op of both runs."""
        if not parting.at_end:
            return parting.op
        recorder, (target, director) = self._recorder, self._second(plan.concealed)
        recorder.record(recorder.world, parting.domain)
        self._first.run(program, audit=False)
        director.follow(recorder.world, plan, recorder.moments, parting.domain)
        target.run(plan.program, audit=False)
        pairs = ((index, value, director.digests.get(index)) for index, value in sorted(recorder.digests.items()))
        return next((index for index, one, other in pairs if other is not None and one != other), parting.op)

    def _second(self, concealed: frozenset[int] | None) -> tuple[EmulatedTarget, Director]:
        """The system of second runs in which the host and the `concealed` domains have other secrets (None: nobody)."""
        made = self._seconds.get(concealed)
        if made is None:
            director = Director(self._declared)
            made = self._seconds[concealed] = self._make(director, concealed), director
        return made

    def _make(self, director: Director, concealed: frozenset[int] | None) -> EmulatedTarget:
        change = with_room if concealed is None else holding(concealed)

        def prepare(hv: Hypervisor) -> None:
            director.systems[hv.world.name] = hv
            change(hv)

        return EmulatedTarget(
            self._bug,
            oracles=frozenset(),
            observer=director,
            hang_seconds=self._hang_seconds,
            mutated=self._mutated,
            secret=BOOT_SECRET if concealed is None else OTHER_SECRET,
            prepare=prepare,
        )

    def close(self) -> None:
        """See `Target.close`."""
        self._first.close()
        for target, _ in self._seconds.values():
            target.close()
        self._seconds.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
