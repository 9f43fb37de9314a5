"""The property engine: hypothesis draws whole programs from a strategy, and long histories from a state machine.

The only module of the package that imports hypothesis. The engine is slow (hundreds of programs a second) and thorough:
each random choice of the generator is a draw of hypothesis, which repeats it, varies it and pushes it to extremes.
Findings go to the same sink as those of other engines. The search goes on after a finding; hvfuzz's own minimiser
shrinks it.
"""

from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Final

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from hvfuzz.abi.boot import WORLDS
from hvfuzz.engines.engine import Job, Session
from hvfuzz.guest.format.binary import decode
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.generator import generate
from hvfuzz.guest.generate.prerequisites import append_with_prerequisites
from hvfuzz.guest.grammar.grammar import Grammar, grammar_for
from hvfuzz.guest.program.ops import Catalogue, OpKind
from hvfuzz.guest.program.program import MAX_OPS, Op, Program

ROUND: Final = 200
"""Number of programs in a round; a tenth as many histories follow."""
STEPS: Final = 40
"""Greatest number of rules in a history; each adds an op, and the ops that it depends on."""
MAX_SEEN: Final = 100_000
"""Number of recent programs that are not run again."""


def dice() -> st.SearchStrategy[Random]:
    """A strategy for `Random` objects whose numbers are draws of hypothesis."""
    return st.randoms(use_true_random=False, note_method_calls=False)


def programs(catalogue: Catalogue, weights: Mapping[str, int]) -> st.SearchStrategy[Program]:
    """A strategy for whole programs, made by the generator from draws of hypothesis."""
    return dice().map(lambda rng: generate(rng, catalogue, weights=weights))


def history(rules: Grammar, run: Callable[[Program], None]) -> type[RuleBasedStateMachine]:
    """A state machine with a rule for each kind of op, which is enabled once the resources of the op were produced.

    At the end of a history, the program is passed to `run`.
    """

    class History(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.ops: list[Op] = []
            self.world = 0

        @initialize(world=st.integers(0, len(WORLDS) - 1))
        def boot(self, world: int) -> None:
            self.world = world

        def teardown(self) -> None:
            if self.ops:
                run(Program(self.world, tuple(self.ops[:MAX_OPS])))

    def add(kind: OpKind) -> None:
        needs = {consumer.resource for consumer in rules.traits[kind].consumers}

        def step(self: Any, rng: Random) -> None:
            append_with_prerequisites(Context(rules, rng, self.world, self.ops), kind)

        def possible(self: Any) -> bool:
            return needs <= {op.kind.produces for op in self.ops}

        decorated = rule(rng=dice())(step)
        setattr(
            History,
            f"do_{kind.name.replace('.', '_')}",
            precondition(possible)(decorated) if needs else decorated,
        )

    for kind in rules.catalogue.kinds:
        if rules.weights[kind]:
            add(kind)
    return History


class HypothesisEngine:
    """Runs rounds of the strategy and of the state machine, each with a different seed."""

    def fuzz(self, job: Job, session: Session) -> None:
        """See `Engine.fuzz`."""
        catalogue = session.target.catalogue
        for unit in job.seeds:
            session.run(decode(unit, catalogue))
        set_hypothesis_home_dir(job.scratch / "hypothesis")
        quiet = settings(
            max_examples=ROUND,
            derandomize=False,  # which hypothesis would set on CI
            database=None,
            deadline=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
            stateful_step_count=STEPS,
            print_blob=False,
        )
        few = settings(quiet, max_examples=ROUND // 10)

        seen: set[Program] = set()

        def run(program: Program) -> None:
            # hypothesis repeats examples on purpose; a run depends on the program only, so repeats show nothing new.
            if program not in seen:
                if len(seen) >= MAX_SEEN:
                    seen.clear()
                seen.add(program)
                session.run(program)

        number = job.seed
        while True:
            weights = session.weights()
            number += 1
            seed(number)(quiet(given(programs(catalogue, weights))(run)))()
            number += 1
            run_state_machine_as_test(seed(number)(history(grammar_for(catalogue, weights), run)), settings=few)


ENGINE = HypothesisEngine()
