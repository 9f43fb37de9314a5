"""Which ops of a program matter for a finding: a slice back from the broken rule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from hvfuzz.explain.judgement.frame_lives import FrameLives
from hvfuzz.guest.program.program import Op, Program, Ref, Value, batched

SETS_STATE: Final = ("ring", "paging", "msr", "delivery", "tlb", "wait")
"""Families of instructions that set the state of their vCPU, or of the caches, for later ops."""
SETS_MEMORY: Final = ("store", "pte")
"""Instructions that write memory which a later op may read as its arguments or tables."""


def relevant_ops(program: Program, op: int, frames: Iterable[int], lives: FrameLives) -> frozenset[int]:
    """The ops up to `op` that can have led to a finding there about these frames.

    Those are the op itself; those in whose course something happened to one of the frames; those whose result a
    relevant op uses; those that set state of a vCPU that acts in a relevant op; and the multicalls that these are
    entries of. It is a guess from what is recorded: only a run of the slice shows that it suffices.
    """
    relevant = {op}
    for hfn in frames:
        relevant |= {event.op for event in lives.life(hfn) if 0 <= event.op <= op}
    while True:
        actors = {program.ops[each].actor for each in relevant}
        before = len(relevant)
        for index, each in enumerate(program.ops[: op + 1]):
            kind = each.kind
            if index in relevant:
                relevant |= {ref for ref in _refs(each) if ref < index}
            elif (each.actor in actors and (kind.family in SETS_STATE or kind.name in SETS_MEMORY)) or any(
                entry in relevant for entry in range(index + 1, index + 1 + batched(program.ops, index))
            ):
                relevant.add(index)
        if len(relevant) == before:
            return frozenset(relevant)


def _refs(op: Op) -> set[int]:
    """The ops whose results `op`, or its race, uses."""
    values = op.values if op.race is None else op.values + op.race.op.values
    return {ref for value in values for ref in _refs_of(value)}


def _refs_of(value: Value) -> Iterable[int]:
    if isinstance(value, Ref):
        return (value.op,)
    if isinstance(value, tuple):
        return (each.op for each in value if isinstance(each, Ref))
    return ()
