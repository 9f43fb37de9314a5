"""A variant: two programs that a law relates, and what differs between the systems that run them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from hvfuzz.guest.program.instruction_kinds import ADVERSARIES
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import Actor, Op, Program
from hvfuzz.targets.laws.exemptions import ALL, Exemption

IDLE: Final = "pause"
"""The kind of op that stands for one that is left out: it does not leave the guest."""
SAME_NAMES: Final[Mapping[int, int]] = MappingProxyType({})
"""Every domain keeps its number."""


class Inserted(NamedTuple):
    """Why an op is in the second program only: half of a pair of calls that undo each other.

    It is made only if op number `needs` of the second program has succeeded, if there is one. With `absent`, a device
    page, it is made only if the domain's devices have nothing there. With `undoes`, it must succeed.
    """

    needs: int | None = None
    absent: tuple[int, int] | None = None
    """(first device page, number of pages)."""
    undoes: bool = False


class Variant(NamedTuple):
    """One change that a law allows. Both runs have no caches of translations, whose entries may go at any time."""

    change: str
    """How the second run differs from the first, in words that follow "in another"."""
    first: Program
    second: Program
    origin: tuple[int, ...]
    """For each op of `second`: its number in `first`, or -1 if it is inserted."""
    inserted: Mapping[int, Inserted] = MappingProxyType({})
    """By number in `second`."""
    one_by_one: bool = False
    """Whether the guest makes the calls of a multicall by itself in the second run."""
    quota: int | None = None
    """The preemption quota of the second run; None: the usual one."""
    names: Mapping[int, int] = SAME_NAMES
    """The number in the second run of each domain that has another one there. Then the clocks must agree as well."""
    exempt: frozenset[Exemption] = ALL
    """The exemptions that hold."""


class Law(NamedTuple):
    """A law: its name is the rule of its findings. `variants` yields what makes each change of a program that it
    allows, with the exemptions that hold."""

    name: str
    demands: str
    variants: Callable[[Program, Catalogue, frozenset[Exemption]], Iterator[Callable[[], Variant]]]


def plain(program: Program, catalogue: Catalogue) -> Program:
    """`program` without what hardware or host may do at any time: a law lets guests act, and caches are empty.

    The next op of a denial may be another one in the second run.
    """
    adversaries = {catalogue.by_name[name] for name in ADVERSARIES}

    def without(op: Op) -> Op:
        if op.kind in adversaries:
            return idle_op(IDLE, op.actor, catalogue)
        if op.race is not None and op.race.op.kind in adversaries:
            return op._replace(race=None)
        return op

    return program._replace(ops=tuple(map(without, program.ops)))


def idle_op(name: str, actor: Actor, catalogue: Catalogue) -> Op:
    """An op without arguments."""
    return Op(catalogue.by_name[name], actor, ())


def unmoved(program: Program) -> tuple[int, ...]:
    """The origin of a second program whose ops have the numbers of the first."""
    return tuple(range(len(program.ops)))
