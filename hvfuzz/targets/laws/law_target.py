"""The target of the laws: each program is run twice for each change that a law allows, and what parts is a finding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Final, NamedTuple, Self

from hvfuzz.abi.boot import WORLDS, World
from hvfuzz.bugs import Bug
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import Program
from hvfuzz.hypervisor.core import canaries
from hvfuzz.hypervisor.core.boot import BOOT_SECRET, plant_canaries
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.oracles.framework.fault_origin import fault_text
from hvfuzz.oracles.framework.finding import Finding
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget
from hvfuzz.targets.emulated.watchdog import LIMIT
from hvfuzz.targets.laws.exemptions import ALL, Exemption
from hvfuzz.targets.laws.guide import Guide, Parted
from hvfuzz.targets.laws.guided_interpreter import GuidedInterpreter
from hvfuzz.targets.laws.law_table import LAWS, sample
from hvfuzz.targets.laws.remains import Remains, remains_part
from hvfuzz.targets.laws.swapped_names import MIRRORED, NAMES
from hvfuzz.targets.laws.variant import Law, Variant
from hvfuzz.targets.target import Run

ORACLE: Final = "laws"


class Side(NamedTuple):
    """One of the two systems of a variant."""

    target: EmulatedTarget
    guide: Guide


class LawTarget:
    """Runs programs twice; no other oracle acts. `laws` are those that are tried, with all their changes.

    With `sampled`, a run tries one change of one law, which the program decides. Only exemptions in `exempt` hold.
    """

    def __init__(
        self,
        bug: Bug | None = None,
        *,
        laws: Iterable[Law] = LAWS,
        sampled: bool = False,
        exempt: frozenset[Exemption] = ALL,
        hang_seconds: float = LIMIT,
        mutated: bool = False,
    ) -> None:
        self._bug: Final = bug
        self._laws: Final = tuple(laws)
        self._sampled: Final = sampled
        self._exempt: Final = exempt
        self._hang_seconds: Final = hang_seconds
        self._mutated: Final = mutated
        self.first: Final = self._side(WORLDS, _as_booted)
        self.second: Final = self._side(WORLDS, _as_booted)
        self.mirrored: Final = self._side(MIRRORED, _with_names_of_others)
        self.pairs: Final = dict.fromkeys((law.name for law in LAWS), 0)
        """Number of pairs run so far, by law."""
        self.excused: Final = dict.fromkeys(self.pairs, 0)
        """Number of those that an exemption ended early."""

    @property
    def catalogue(self) -> Catalogue:
        """See `Target.catalogue`."""
        return self.first.target.catalogue

    def run(self, program: Program, *, audit: bool = True, digest: bool = False) -> Run:
        """Try the laws on `program`; see `Target.run`. The trace is that of a plain run, or of its first run."""
        found: list[Finding] = []
        run: Run | None = None
        for law, variant in self._changes(program):
            run, finding = self.compare(law, variant)
            found += run.findings if finding is None else (finding,)
        if run is None:
            self.first.guide.run_next(WORLDS[program.world].name, None, None)
            run = self.first.target.run(program, audit=False, digest=digest)
            found += run.findings
        first: dict[str, Finding] = {}
        for each in sorted(found, key=lambda finding: finding.op):
            first.setdefault(each.identity, each)
        return run._replace(findings=tuple(first.values()))

    def _changes(self, program: Program) -> Iterator[tuple[Law, Variant]]:
        if self._sampled:
            chosen = sample(program, self.catalogue)
            if chosen is not None:
                yield chosen
            return
        for law in self._laws:
            for make in law.variants(program, self.catalogue, self._exempt):
                yield law, make()._replace(exempt=self._exempt)

    def compare(self, law: Law, variant: Variant) -> tuple[Run, Finding | None]:
        """The first run of a variant, and what its second shows."""
        self.pairs[law.name] += 1
        first, second = self.first, self.mirrored if variant.names else self.second
        world = WORLDS[variant.first.world].name
        first.guide.run_next(world, variant, None)
        run = first.target.run(variant.first, audit=False)
        if run.trace.stopped or not variant.first.ops:
            return run, None
        second.guide.run_next(world, variant, first.guide)
        other = second.target.run(variant.second, audit=False)
        parted = second.guide.parted or _end_of(other)
        if parted is None and (first.guide.excused or second.guide.excused):
            self.excused[law.name] += 1
        elif parted is None:
            parted = self._at_end(variant, first, second)
        return run, None if parted is None else self._finding(law, variant, parted)

    def _at_end(self, variant: Variant, first: Side, second: Side) -> Parted | None:
        """What parts in the states that the runs leave, and the first op after which it does."""
        sides = first.guide.hypervisor, second.guide.hypervisor
        try:
            place = remains_part(Remains.of(sides[0], variant, first=True), Remains.of(sides[1], variant))
        except Exception as error:
            if self._bug is None and not self._mutated:
                raise
            # A state of which nothing can be told any more was broken by the planted bug.
            text = f"the law can make no sense of the state: {fault_text(error)}"
            return Parted(len(variant.second.ops) - 1, "a state as the contract has it", text)
        if place is None:
            return None
        values: tuple[list[object], list[object]] = ([], [])

        def note(side: int) -> Callable[[int], None]:
            return lambda _: values[side].append(place.probe(sides[side], side == 0))

        first.guide.after_op, second.guide.after_op = note(0), note(1)
        try:
            for side, program in ((first, variant.first), (second, variant.second)):
                side.guide.run_next(WORLDS[program.world].name, variant, None if side is first else first.guide)
                side.target.run(program, audit=False)
        finally:
            first.guide.after_op = second.guide.after_op = None
        differ = [one != other for one, other in zip(*values, strict=False)]
        since = len(differ) - next((back for back, parts in enumerate(reversed(differ)) if not parts), len(differ))
        shared = [at for at, op in enumerate(variant.second.ops) if variant.origin[at] >= 0]
        starts = sorted(first.guide.moments)
        at = starts[min(since, len(starts) - 1)]
        return Parted(shared[at], place.first, place.second)

    def _finding(self, law: Law, variant: Variant, parted: Parted) -> Finding:
        op = variant.second.ops[parted.op]
        origin = variant.origin[parted.op]
        if origin < 0:  # an inserted call: the op before it that both runs have
            origin = max((each for each in variant.origin[: parted.op]), default=0)
        message = f"{law.demands}: {parted.first} in one run, {parted.second} in another {variant.change}"
        return Finding(ORACLE, law.name, op.kind.name, message.replace(",,", ","), max(origin, 0))

    def _side(self, worlds: tuple[World, ...], prepare: Callable[[Hypervisor], None]) -> Side:
        guide = Guide()

        def prepared(hv: Hypervisor) -> None:
            guide.systems[hv.world.name] = hv
            if Exemption.CACHES in self._exempt:
                hv.machine.tlb.set_capacity(0)
                hv.machine.iommu.set_capacity(0)
            prepare(hv)

        target = EmulatedTarget(
            self._bug,
            oracles=frozenset(),
            observer=guide,
            hang_seconds=self._hang_seconds,
            mutated=self._mutated,
            prepare=prepared,
            interpreter=lambda machine, ops, world: GuidedInterpreter(machine, ops, world, guide),
            worlds=worlds,
        )
        return Side(target, guide)

    def close(self) -> None:
        """See `Target.close`."""
        for side in (self.first, self.second, self.mirrored):
            side.target.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _end_of(second: Run) -> Parted | None:
    """How the second run ended early, if it did: the first did not."""
    last = second.trace.outcomes[-1].op if second.trace.outcomes else 0
    for finding in second.findings:
        return Parted(max(finding.op, 0), "the host goes on", finding.message)
    return Parted(last, "the host goes on", second.trace.stopped) if second.trace.stopped else None


def _as_booted(_hv: Hypervisor) -> None:
    """Leave the system as it is."""


def _with_names_of_others(hv: Hypervisor) -> None:
    """Give each domain the secret that it has under its other number."""
    units = hv.work.units
    for domain, config in zip(hv.domains, hv.world.domains, strict=True):
        domain.canary = canaries.canary(BOOT_SECRET, canaries.DOMAIN, NAMES.get(domain.id, domain.id))
        plant_canaries(hv, domain, config.ram_pages)
    hv.work.units = units  # what is done here is no work of the host
