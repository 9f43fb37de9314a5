"""Templates that exhaust a table of the hypervisor or a domain's pool of table pages."""

from __future__ import annotations

from typing import Final

from hvfuzz.abi.limits import GRANTS, HANDLES, PORTS
from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.op_composition import CAREFUL_PREREQUISITE, compose
from hvfuzz.guest.generate.prerequisites import append_dma_mapping, append_with_prerequisites
from hvfuzz.guest.generate.templates.repetition import CONTIGUOUS_STRIDES, SPARSE_STRIDES, strided_copies
from hvfuzz.guest.program.program import Actor, Ref

_TABLE_OVERFLOWS: Final = (GRANTS + 1, HANDLES + 1, PORTS + 1)


def exhaust_table(context: Context) -> None:
    """Append copies of one call, rarely one more than a table has entries, then a call on the range of all of them."""
    grammar = context.grammar
    if not grammar.bulk_kinds:
        return
    kinds = grammar.bulk_producers if grammar.bulk_producers and context.chance(0.35) else grammar.bulk_kinds
    op = append_with_prerequisites(context, context.pick(kinds), careful=CAREFUL_PREREQUISITE)
    first = len(context.ops) - 1
    times = context.pick((3, 7, 7, 15, 15, 19)) if context.chance(0.97) else context.pick(_TABLE_OVERFLOWS)
    for again in strided_copies(context, op, times, CONTIGUOUS_STRIDES):
        context.append(again)
    made = op.kind.produces
    pools = [pool for pool in grammar.traits[op.kind].positions if pool in grammar.range_consumers]
    target = made if made in grammar.range_consumers and context.chance(0.8) else context.pick(pools) if pools else made
    if target is None or target not in grammar.range_consumers:
        if made in grammar.consumers:
            context.append(compose(context, context.pick(grammar.consumers[made]), op.actor, sources=(first,)))
        return
    kind = context.pick(grammar.range_consumers[target])
    range_call = compose(context, kind, op.actor)
    traits = grammar.traits[kind]
    values = list(range_call.values)
    at = traits.positions[target][0]
    if target == made:
        values[at] = Ref(first)
    else:
        begin = op.values[grammar.traits[op.kind].positions[target][0]]
        if not isinstance(begin, int):
            return
        values[at] = begin
    if traits.count is not None:
        values[traits.count] = context.pick((times + 1, times + 1, 1 + context.below(times + 1)))
    context.append(range_call._replace(values=tuple(values)))


def exhaust_page_table_pool(context: Context, actor: Actor) -> None:
    """Append distant device mappings, each of which takes table pages, to empty the domain's pool of them."""
    mappers = context.grammar.mapping_kinds
    if mappers:
        mapper = append_dma_mapping(context, actor)
        for again in strided_copies(context, mapper, context.pick((7, 8, 16)), SPARSE_STRIDES):
            context.append(again)
