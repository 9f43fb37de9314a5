"""Template of user code: instructions at CPL 3."""

from __future__ import annotations

from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.prerequisites import append_with_prerequisites
from hvfuzz.guest.program.program import Op


def user_mode(context: Context) -> None:
    """Append SYSRET, instructions of which some exit and some are privileged, and mostly SYSCALL."""
    sysret, syscall = context.grammar.allowed("sysret"), context.grammar.allowed("syscall")
    if sysret is None:
        return
    actor = context.actor()
    context.append(Op(sysret, actor, ()))
    instructions, traps = context.grammar.instructions, context.grammar.traps
    for _ in range(1 + context.below(4)):
        if context.chance(0.1):
            append_with_prerequisites(context, context.grammar.choose_kind(context.rng), actor)
        else:
            append_with_prerequisites(
                context, context.pick(traps if traps and context.chance(0.6) else instructions), actor
            )
    if syscall is not None and context.chance(0.7):
        context.append(Op(syscall, actor, ()))
