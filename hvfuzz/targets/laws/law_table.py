"""All laws, and which of them a program is tried with in a sample."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from hvfuzz.guest.format.binary import encode
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import Point, Program, batched
from hvfuzz.targets.laws import swapped_names, undone_pairs
from hvfuzz.targets.laws.exemptions import ALL, Exemption
from hvfuzz.targets.laws.variant import Law, Variant, plain, unmoved

NEVER: Final = 1 << 62
"""A quota that no call uses up."""
ALWAYS: Final = 1
"""A quota that each step of a long call uses up."""


def _one_by_one(
    program: Program, catalogue: Catalogue, _exempt: frozenset[Exemption]
) -> Iterator[Callable[[], Variant]]:
    if any(batched(program.ops, index) for index in range(len(program.ops))):
        yield lambda: _same(
            program, catalogue, "in which the guest makes the calls of each multicall one by one"
        )._replace(one_by_one=True)


def _other_quotas(
    program: Program, catalogue: Catalogue, _exempt: frozenset[Exemption]
) -> Iterator[Callable[[], Variant]]:
    if any(op.kind.declaration is not None and op.kind.declaration.long for op in program.ops):
        for quota, how in ((ALWAYS, "preempted between all their steps"), (NEVER, "never preempted")):
            yield partial(_with_quota, program, catalogue, quota, f"in which long calls are {how}")


def _with_quota(program: Program, catalogue: Catalogue, quota: int, change: str) -> Variant:
    """The same program with another quota, without races at preemption points: these are others then."""
    ops = (op if op.race is None or op.race.point != Point.STEP else op._replace(race=None) for op in program.ops)
    return _same(program._replace(ops=tuple(ops)), catalogue, change)._replace(quota=quota)


def _same(program: Program, catalogue: Catalogue, change: str) -> Variant:
    same = plain(program, catalogue)
    return Variant(change, same, same, unmoved(same))


LAWS: Final = (
    Law("multicall", "a multicall equals its calls, made one by one", _one_by_one),
    Law("preemption", "a call that is preempted equals one that is not", _other_quotas),
    undone_pairs.LAW,
    swapped_names.LAW,
)
BY_NAME: Final = {law.name: law for law in LAWS}


def sample(program: Program, catalogue: Catalogue) -> tuple[Law, Variant] | None:
    """One variant of one of the laws that have one, which the bytes of the program decide."""
    mark = zlib.crc32(encode(program, catalogue))
    laws = [(law, found) for law in LAWS if (found := tuple(law.variants(program, catalogue, ALL)))]
    if not laws:
        return None
    law, variants = laws[mark % len(laws)]
    return law, variants[mark // len(laws) % len(variants)]()
