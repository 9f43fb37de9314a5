"""How the second run of a pair differs from the first."""

from typing import Final, NamedTuple

from hvfuzz.guest.program.instruction_kinds import ADVERSARIES
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import Op, Program
from hvfuzz.oracles.noninterference.channels import Channel
from hvfuzz.oracles.noninterference.coalition import kept_until

IDLE: Final = "pause"
"""The kind of op that stands for one that is left out: it does not leave the guest."""


class Plan(NamedTuple):
    """How the second run of a pair differs from the first, and what is compared."""

    program: Program
    """The second run's program, with `pause` in place of each op that is left out."""
    kept: tuple[int, ...]
    """For each domain: its last op that is compared."""
    left_out: frozenset[int]
    """Numbers of the ops that are left out."""
    concealed: frozenset[int] | None
    """The domains that hold other secrets, as the host does then; None: nobody does."""
    moved: bool
    """Whether ops are moved within their grain or tick."""
    late: bool
    """See `allowed_shift`."""


def plan_of(
    program: Program, observer: int, domains: int, catalogue: Catalogue, declared: frozenset[Channel], *, late: bool
) -> Plan:
    """The pair for `observer`: all is left out that does not address it."""
    kept = kept_until(program, observer, domains, declared)
    out = frozenset(index for index, op in enumerate(program.ops) if index > kept[op.actor.domain])
    concealed = frozenset(domain for domain, last in enumerate(kept) if last < 0)
    return Plan(leaving_out(program, out, catalogue), kept, out, concealed, True, late)


def leaving_out(program: Program, out: frozenset[int], catalogue: Catalogue) -> Program:
    """`program` with `pause` for each op of `out`, so that the others keep their numbers."""
    idle = catalogue.by_name[IDLE]
    ops = tuple(Op(idle, op.actor, ()) if index in out else op for index, op in enumerate(program.ops))
    return program._replace(ops=ops)


def without_shared_hardware(program: Program, catalogue: Catalogue) -> Program:
    """`program` without races between vCPUs of two domains, and without ops that drop entries of the caches.

    A denial stays if the next op, in which a request is denied, is of the same domain.
    """
    idle, deny = catalogue.by_name[IDLE], catalogue.by_name["deny"]
    shared = {catalogue.by_name[name] for name in ADVERSARIES}

    def plain(op: Op, following: Op) -> Op:
        if op.kind in shared and not (op.kind is deny and op.actor.domain == following.actor.domain):
            return Op(idle, op.actor, ())
        race = op.race
        if race is not None and (race.op.actor.domain != op.actor.domain or race.op.kind in shared):
            return op._replace(race=None)
        return op

    ops = program.ops
    return program._replace(ops=tuple(map(plain, ops, (*ops[1:], *ops[-1:]))))
