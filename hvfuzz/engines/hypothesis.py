"""The property engine: hypothesis draws programs from one strategy, and long dependent histories from a state machine.

The only module of the package that imports hypothesis. It is slow (hundreds of programs a second) and deep: its
bundles hold the results of earlier ops, so that a history hangs together. What it finds goes to the same sink in the
same form; the search goes on after a finding, and the project's own minimiser shrinks it.
"""

from collections.abc import Sequence
from typing import Any, Final

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, multiple, rule, run_state_machine_as_test

from hvfuzz.abi.boot import WORLDS
from hvfuzz.abi.kinds import Kind
from hvfuzz.engines.engine import BudgetSpent, Job, Session
from hvfuzz.guest.binary import decode
from hvfuzz.guest.grammar import Grammar, grammar
from hvfuzz.guest.ops import Catalogue, OpKind
from hvfuzz.guest.program import MAX_FETCH, Actor, Mangle, Op, Program, Race, Ref, Value, defect, is_array

ROUND: Final = 200
"""Examples of the strategy, and a tenth as many state machine runs, in turn until the budget is spent."""
STEPS: Final = 40
MAX_ARRAY: Final = 8


def values(kind: Kind, earlier: Sequence[Ref] = ()) -> st.SearchStrategy[Value]:
    """Values of a field of `kind`: its edges, any number of its width, arrays, and results of earlier ops."""
    limit = (1 << (8 * kind.width)) - 1
    edges = [edge for edge in kind.edges if 0 <= edge <= limit] or [0]
    numbers: st.SearchStrategy[Any] = st.sampled_from(edges) | st.integers(0, min(limit, 0x800)) | st.integers(0, limit)
    if kind.consumes is not None and earlier:
        numbers = st.sampled_from(list(earlier)) | numbers
    if is_array(kind) and kind.element is not None:
        arrays: st.SearchStrategy[Any] = st.lists(values(kind.element, earlier), max_size=MAX_ARRAY).map(tuple)
        return arrays | numbers
    return numbers


def ops(kind: OpKind, actor: Actor, earlier: Sequence[Ref] = ()) -> st.SearchStrategy[Op]:
    """Ops of one kind by one vCPU; every field of a struct may also be mangled."""
    fields = st.tuples(*(st.just(0) if field.kind.follow else values(field.kind, earlier) for field in kind.fields))
    mangles: st.SearchStrategy[Mangle | None] = st.none()
    if kind.number is not None:
        part = st.none() | st.integers(0, 64)
        some = st.builds(Mangle, size=part, version=part).filter(lambda mangle: any(x is not None for x in mangle))
        mangles = st.none() | st.none() | st.none() | some
    return st.builds(Op, st.just(kind), st.just(actor), fields, mangles)


@st.composite
def programs(draw: st.DrawFn, catalogue: Catalogue, kinds: Sequence[OpKind], size: int = 16) -> Program:
    """Whole programs over `kinds`: the world, then ops whose arguments may be results of earlier ones."""
    world = draw(st.integers(0, len(WORLDS) - 1))
    domains = WORLDS[world].domains
    actors = [Actor(number, vcpu) for number, domain in enumerate(domains) for vcpu in range(domain.vcpus)]
    drawn: list[Op] = []
    refs: list[Ref] = []
    for index in range(draw(st.integers(1, size))):
        kind = draw(st.sampled_from(kinds))
        actor = draw(st.sampled_from(actors))
        op = draw(ops(kind, actor, refs))
        if kind.fetches and draw(st.integers(0, 7)) == 0:
            stores = ops(catalogue.by_name["store"], draw(st.sampled_from(actors)), refs)
            op = op._replace(race=Race(draw(st.integers(0, min(MAX_FETCH, 6))), draw(stores)))
        drawn.append(op)
        if kind.produces is not None:
            refs.append(Ref(index))
    return Program(world, tuple(drawn))


def state_machine(session: Session, rules: Grammar, kinds: Sequence[OpKind]) -> type[RuleBasedStateMachine]:
    """A machine with a rule for each kind of `kinds`, whose bundle `results` links what they produce and consume."""

    class History(RuleBasedStateMachine):
        results: Bundle[tuple[str, int]] = Bundle("results")

        def __init__(self) -> None:
            super().__init__()
            self.ops: list[Op] = []
            self.world = 0

        @initialize(world=st.integers(0, len(WORLDS) - 1))
        def boot(self, world: int) -> None:
            self.world = world

        def teardown(self) -> None:
            program = Program(self.world, tuple(self.ops))
            if self.ops and defect(program) is None:
                session.run(program)

    def add(kind: OpKind) -> None:
        consumed = {field.position: field.resource for field in rules.traits[kind].consumers}

        def step(self: Any, op: Op, linked: list[tuple[str, int]]) -> Any:
            domains = WORLDS[self.world].domains
            actor = Actor(op.actor.domain % len(domains), op.actor.vcpu % domains[op.actor.domain % len(domains)].vcpus)
            bound = list(op.values)
            for position, resource in consumed.items():
                match = [index for name, index in linked if name == resource]
                if match:
                    bound[position] = Ref(match[0])
            self.ops.append(op._replace(actor=actor, values=tuple(bound)))
            return (kind.produces, len(self.ops) - 1) if kind.produces is not None else multiple()

        actors = st.builds(Actor, st.integers(0, 2), st.integers(0, 1))
        decorated = rule(
            target=History.results,
            op=actors.flatmap(lambda actor: ops(kind, actor)),
            linked=st.lists(History.results, max_size=2),
        )(step)
        setattr(History, f"do_{kind.name.replace('.', '_')}", decorated)

    for kind in kinds:
        add(kind)
    return History


class HypothesisEngine:
    """Rounds of the strategy and of the state machine, each with a seed of its own."""

    def fuzz(self, job: Job, session: Session) -> None:
        """Run until the budget is spent."""
        catalogue = session.target.catalogue
        rules = grammar(catalogue, job.harness.weights)
        kinds = [kind for kind in catalogue.kinds if rules.weights[kind]]
        for unit in job.seeds:
            session.run(decode(unit, catalogue))
        quiet = settings(
            max_examples=ROUND,
            database=None,
            deadline=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
            stateful_step_count=STEPS,
        )
        spent = False

        def run(program: Program) -> None:
            nonlocal spent
            if spent:
                return
            try:
                session.run(program)
            except BudgetSpent:
                spent = True

        number = job.seed
        while not spent:
            number += 1
            seed(number)(quiet(given(programs(catalogue, kinds))(run)))()
            number += 1
            machine = seed(number)(state_machine(session, rules, kinds))
            try:
                run_state_machine_as_test(machine, settings=settings(quiet, max_examples=ROUND // 10))
            except BudgetSpent:
                spent = True


ENGINE = HypothesisEngine()
