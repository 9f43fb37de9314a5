"""Which ops must be the same in both runs of a pair: the observer's, and those of others that may address it.

A domain that addresses the observer joins it: what it did before is part of what it says, so it is an observer itself
up to there. Decided from the program alone, by the declarations of the calls; where the program does not tell (raw
calls, damaged or raced structs), an op may address everybody.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from hvfuzz.abi.limits import SELF
from hvfuzz.guest.program.program import Op, Program, Ref, batched
from hvfuzz.oracles.noninterference.channels import Channel

CONTROL: Final = 0
"""The number of the control domain."""
SOURCE_REF: Final = 1
DEST_REF: Final = 2
PRIVILEGED: Final = ("device.assign", "device.deassign")
RAW: Final = ("vmcall", "blob")
OF_FAMILY: Final = {"grant": Channel.GRANTS, "event": Channel.EVENTS}
GRANT_CALLS: Final = range(0x20, 0x30)
EVENT_CALLS: Final = range(0x30, 0x40)
DEVICE_CALLS: Final = range(0x60, 0x62)
MULTICALL: Final = 0x70


class Tie(NamedTuple):
    """If a domain of `others` is kept up to op `at` or further, domain `actor` is kept up to `upto`.

    `upto` None: as far as that other domain, since the two share memory from then on.
    """

    at: int
    actor: int
    others: frozenset[int]
    upto: int | None


def kept_until(program: Program, observer: int, domains: int, declared: frozenset[Channel]) -> tuple[int, ...]:
    """For each of the `domains` of the program's world: the last op that is the same in both runs; -1 for none.

    All ops of `observer` are kept. Only channels that are `declared` count.
    """
    last = len(program.ops) - 1
    kept = [-1] * domains
    kept[observer] = last
    ties = list(_ties(program, domains, declared))
    batches = [
        (index, op.actor.domain, index + batched(program.ops, index))
        for index, op in enumerate(program.ops)
        if op.kind.follow is not None
    ]
    before: list[int] = []
    while kept != before:
        before = list(kept)
        for at, actor, others, upto in ties:
            for other in others:
                if other != actor and kept[other] >= at:
                    kept[actor] = max(kept[actor], kept[other] if upto is None else upto)
        for first, actor, end in batches:
            if first <= kept[actor] < end:
                kept[actor] = end  # a batch is one call
    return tuple(kept)


def _ties(program: Program, domains: int, declared: frozenset[Channel]) -> Iterator[Tie]:
    everybody = frozenset(range(domains))
    named: list[frozenset[int]] = [frozenset()] * domains
    for index, op in enumerate(program.ops):
        if Channel.RESULTS in declared:
            yield from _results(program, index, op)
        for each in (op,) if op.race is None else (op, op.race.op):
            actor = each.actor.domain
            addressed, channels = _addressed(program, index, each, everybody)
            if not channels & declared:
                continue
            if channels == {Channel.EVENTS}:
                named[actor] |= addressed
                yield Tie(index, actor, named[actor], index)
                continue
            yield Tie(index, actor, addressed, None)
            if Channel.DEVICES in channels:
                yield from (Tie(index, other, frozenset((actor,)), None) for other in sorted(addressed - {actor}))


def _results(program: Program, index: int, op: Op) -> Iterator[Tie]:
    """The op's references to results of other domains' ops."""
    for each in (op,) if op.race is None else (op, op.race.op):
        for value in each.values:
            for part in (value,) if not isinstance(value, tuple) or isinstance(value, Ref) else value:
                if isinstance(part, Ref):
                    source = program.ops[part.op].actor.domain
                    yield Tie(index, source, frozenset((each.actor.domain,)), part.op)


def _addressed(
    program: Program, index: int, op: Op, everybody: frozenset[int]
) -> tuple[frozenset[int], frozenset[Channel]]:
    """The domains that the op may address, and by which channels."""
    kind = op.kind
    actor = op.actor.domain
    if kind.name in RAW or kind.follow is not None:
        return everybody, _of_unknown_call(program, index, op)
    channel = Channel.DEVICES if kind.name in PRIVILEGED else OF_FAMILY.get(kind.family)
    if channel is None or (channel is Channel.DEVICES and actor != CONTROL):
        return frozenset(), frozenset()
    only = frozenset((channel,))
    if channel is Channel.DEVICES or op.mangle is not None or _is_raced(program, index, op):
        return everybody, only
    return _named(op, everybody), only


def _of_unknown_call(program: Program, index: int, op: Op) -> frozenset[Channel]:
    """The channels that an op may use whose calls the program does not show."""
    number = op.values[0] if op.kind.name in RAW else MULTICALL
    if op.kind.follow is not None:
        following = program.ops[index + 1 : index + 1 + batched(program.ops, index)]
        if following and op.mangle is None and all(each.race is None for each in (op, *following)):
            return frozenset()  # its entries are ops of the program, and speak for themselves
    unknown = not isinstance(number, int) or number == MULTICALL
    assert isinstance(number, int) or unknown
    found = set()
    if unknown or number in GRANT_CALLS:
        found.add(Channel.GRANTS)
    if unknown or number in EVENT_CALLS:
        found.add(Channel.EVENTS)
    if op.actor.domain == CONTROL and (unknown or number in DEVICE_CALLS):
        found.add(Channel.DEVICES)
    return frozenset(found)


def _is_raced(program: Program, index: int, op: Op) -> bool:
    """Whether another vCPU may change the op's struct before the hypervisor reads it."""
    return op.race is not None or program.ops[index].race is not None


def _named(op: Op, everybody: frozenset[int]) -> frozenset[int]:
    """The domains that the arguments of a grant or event call name."""
    kind = op.kind
    if kind.name == "grant.copy":
        flags = op.values[kind.index["flags"]]
        if not isinstance(flags, int):
            return everybody
        fields = ["from_domain"] * bool(flags & SOURCE_REF) + ["to_domain"] * bool(flags & DEST_REF)
    else:
        fields = [name for name in ("to", "remote", "granter") if name in kind.index]
    values = [op.values[kind.index[name]] for name in fields]
    if not all(isinstance(value, int) for value in values):
        return everybody
    return frozenset(value for value in values if isinstance(value, int) and value != SELF) & everybody
