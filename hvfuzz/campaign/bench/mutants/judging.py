"""Judges one mutant: corpus programs that reach it, audited, then a fixed number of random ones.

The first finding ends it. Only what an oracle reports kills a mutant: a trace that differs does not, and neither does
an error of hvfuzz itself.
"""

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, Final, NamedTuple, Self

from hvfuzz.campaign.bench.mutants.module_source import ModuleSource
from hvfuzz.campaign.bench.mutants.mutant import Mutant
from hvfuzz.campaign.bench.mutants.planting import Unsupported, planted_mutant
from hvfuzz.campaign.bench.mutants.reach import NamedProgram, Reach
from hvfuzz.engines.engine import error_key
from hvfuzz.guest.format.text import render
from hvfuzz.guest.generate.generator import generate
from hvfuzz.guest.grammar.weight_profiles import weight_profiles
from hvfuzz.guest.mutate.mutation import mutate
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.oracles.framework.finding import Finding
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget
from hvfuzz.targets.harness import HARNESSES

KILLED: Final = "killed"
SURVIVED: Final = "survived"
INTERNAL: Final = "internal error"
UNSUPPORTED: Final = "not supported"
VERDICTS: Final = (KILLED, SURVIVED, INTERNAL, UNSUPPORTED)
BY_CORPUS: Final = "corpus"
BY_FUZZING: Final = "fuzzing"
AUDIT_EVERY: Final = 8
"""One random program in so many is audited: an audit takes ten times as long as the run."""
MAX_MUTATIONS: Final = 4


class Judgement(NamedTuple):
    """What became of a mutant."""

    mutant: Mutant
    verdict: str
    """One of VERDICTS."""
    budget: int
    """Random programs that were allowed for."""
    seed: int
    reached: bool = False
    """Whether some corpus program executes the changed line."""
    by: str = ""
    """What killed it: BY_CORPUS or BY_FUZZING."""
    finding: str = ""
    """Identity of the finding that killed it, or of the internal error."""
    message: str = ""
    program: str = ""
    """The program with that finding: its file, or the number of the random program."""
    text: str = ""
    """The program itself, if no file has it."""
    programs: int = 0
    """Programs that ran."""

    def plain(self) -> dict[str, Any]:
        """As a JSON object; `read` is the inverse."""
        mutant = self.mutant
        return {"id": mutant.id, **self._asdict(), "mutant": mutant._asdict()}

    @classmethod
    def read(cls, plain: dict[str, Any]) -> Self:
        """Raises TypeError, KeyError or ValueError if `plain` is no judgement."""
        fields = {name: plain[name] for name in cls._fields if name != "mutant"}
        mutant = Mutant(**plain["mutant"])
        if fields["verdict"] not in VERDICTS:
            raise ValueError("unknown verdict")
        return cls(mutant._replace(lines=(mutant.lines[0], mutant.lines[1])), **fields)

    def killed_by(self, finding: Finding, named: NamedProgram) -> "Judgement":
        """This judgement, after `finding` in the program `named`."""
        random = named.name.startswith(RANDOM)
        return self._replace(
            verdict=KILLED,
            by=BY_FUZZING if random else BY_CORPUS,
            finding=finding.identity,
            message=finding.message,
            program=named.name,
            text=render(named.program) if random else "",
        )


RANDOM: Final = "random program "
"""How the names of random programs begin."""


def random_programs(
    seeds: Sequence[NamedProgram], catalogue: Catalogue, count: int, seed: str
) -> Iterator[NamedProgram]:
    """`count` programs, half of them generated and half of them mutated `seeds` (if there are any).

    The harnesses take turns, and each goes through its weight profiles. The programs depend on the arguments only.
    """
    rng = Random(seed)
    profiles = [weight_profiles(catalogue, harness.weights) for harness in HARNESSES.values()]
    for number in range(1, count + 1):
        choices = profiles[number % len(profiles)]
        # Every second program has the weights of the harness itself, which come first.
        weights = (choices[0] if rng.random() < 0.5 else rng.choice(choices)).weights
        if seeds and rng.random() < 0.5:
            program = rng.choice(seeds).program
            for _ in range(rng.randint(1, MAX_MUTATIONS)):
                program = mutate(program, rng, catalogue, weights)
        else:
            program = generate(rng, catalogue, weights=weights)
        yield NamedProgram(f"{RANDOM}{number}", program)


def judge(
    mutant: Mutant,
    reach: Reach,
    booted: EmulatedTarget,
    budget: int,
    seed: int,
    begin: Callable[[NamedProgram], None] = lambda named: None,
) -> Judgement:
    """Judge `mutant`; `booted` is a target that was booted without it. `begin` is called before each program.

    Random programs mutate those corpus programs that reach the mutant, or any of them if none does.
    """
    near = reach.programs_at(mutant)
    result = Judgement(mutant, SURVIVED, budget, seed, bool(near))
    broken = ""
    try:
        with planted_mutant(mutant, ModuleSource(mutant.path)):
            target = EmulatedTarget(mutated=True) if reach.at_boot(mutant) else booted
            randoms = random_programs(near or reach.programs, target.catalogue, budget, f"{seed}:{mutant.id}")
            for number, (named, audit) in enumerate(_all(near, randoms), 1):
                begin(named)
                result = result._replace(programs=number)
                try:
                    run = target.run(named.program, audit=audit)
                except Exception as error:
                    # The machine may be in any state: the next program gets another one.
                    broken = broken or f"{error_key(error)}: {error}"
                    target = EmulatedTarget(mutated=True)
                    continue
                if run.findings:
                    return result.killed_by(run.findings[0], named)
    except Unsupported as error:
        return result._replace(verdict=UNSUPPORTED, message=str(error))
    return result._replace(verdict=INTERNAL, finding=broken) if broken else result


def _all(near: Sequence[NamedProgram], randoms: Iterator[NamedProgram]) -> Iterator[tuple[NamedProgram, bool]]:
    """Each program, and whether it is audited."""
    for named in near:
        yield named, True
    for number, named in enumerate(randoms):
        yield named, not number % AUDIT_EVERY
