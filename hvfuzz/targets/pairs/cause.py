"""Names what made a pair part: single differences are tried alone, each in a second run of its own."""

from collections.abc import Callable, Iterator
from typing import Final

from hvfuzz.guest.format.text import render_op
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import Program
from hvfuzz.oracles.framework.finding import Finding
from hvfuzz.oracles.noninterference.partings import Parting
from hvfuzz.targets.pairs.plans import Plan, leaving_out

ORACLE: Final = "noninterference"
TRIED: Final = 64
"""Most ops that are left out alone, the latest first."""


def finding_of(
    program: Program,
    plan: Plan,
    parting: Parting,
    at: int,
    catalogue: Catalogue,
    compare: Callable[[Plan], Parting | None] | None,
) -> Finding:
    """The finding about a pair of `program` that parted in op number `at`.

    `compare` runs a second program; without it, no cause is looked for.
    """
    cause = compare and next(
        (text for text, other in _single(program, plan, at, catalogue) if _same(compare(other), parting)),
        "only all together: " + _all(plan),
    )
    message = (
        f"{parting.rule}: dom{parting.domain} sees {parting.first} in one run, {parting.second} in another that "
        f"differs in nothing that is addressed to it{f'; what makes the difference: {cause}' if cause else ''}"
    )
    return Finding(ORACLE, parting.rule, program.ops[at].kind.name, message, at)


def _single(program: Program, plan: Plan, op: int, catalogue: Catalogue) -> Iterator[tuple[str, Plan]]:
    """(what differs, the plan in which only this differs)."""
    same = plan._replace(program=program, left_out=frozenset(), concealed=None, moved=False)
    yield "the host's own secrets", same._replace(concealed=frozenset())
    for domain in sorted(plan.concealed or ()):
        yield f"what dom{domain} holds in memory and registers", same._replace(concealed=frozenset((domain,)))
    yield "when its ops begin, within a grain or tick of the clock", same._replace(moved=True)
    for index in sorted((each for each in plan.left_out if each <= op), reverse=True)[:TRIED]:
        out = frozenset((index,))
        text = f"that op {index} is left out, {render_op(program.ops[index])}"
        yield text, same._replace(program=leaving_out(program, out, catalogue), left_out=out)


def _same(one: Parting | None, other: Parting) -> bool:
    return one is not None and one[:2] == other[:2]


def _all(plan: Plan) -> str:
    out = len(plan.left_out)
    held = ", ".join(f"dom{domain}" for domain in sorted(plan.concealed or ()))
    return f"{out} ops left out, other secrets of the host{' and ' + held if held else ''}, other times"
