"""Template of the life of a resource: produced, used, released, and its memory reused."""

from __future__ import annotations

from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.op_composition import CAREFUL_PREREQUISITE
from hvfuzz.guest.generate.prerequisites import append_with_prerequisites
from hvfuzz.guest.generate.templates.repetition import change_and_restore


def resource_lifecycle(context: Context) -> None:
    """Append a producer, a few consumers of its result, and sometimes an op that reuses the memory or the entry."""
    grammar = context.grammar
    if not grammar.producers:
        return
    op = append_with_prerequisites(context, context.pick(grammar.producers), careful=CAREFUL_PREREQUISITE)
    made = len(context.ops) - 1
    kinds = grammar.consumers[op.kind.produces or ""]
    for _ in range(1 + context.below(3)):
        used = append_with_prerequisites(context, context.pick(kinds), careful=CAREFUL_PREREQUISITE, sources=(made,))
        if context.chance(0.15):
            change_and_restore(context, used)
    choice = context.rng.random()
    if choice < 0.4 and grammar.populating_kinds:
        append_with_prerequisites(context, context.pick(grammar.populating_kinds), careful=CAREFUL_PREREQUISITE)
    elif choice < 0.6:
        append_with_prerequisites(context, op.kind, op.actor)
