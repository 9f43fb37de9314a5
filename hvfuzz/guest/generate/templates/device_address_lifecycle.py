"""Template of the life of a device address: mapped, used by a device, changed, unmapped."""

from __future__ import annotations

from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.op_composition import CAREFUL_LAST, CAREFUL_PREREQUISITE
from hvfuzz.guest.generate.prerequisites import append_dma_mapping, append_with_prerequisites
from hvfuzz.guest.generate.templates.dma_engine_driver import dma_engine_driver


def device_address_lifecycle(context: Context) -> None:
    """Append a mapping of a device address, then ops on the address and on the frame behind it."""
    kinds = context.grammar.iova_kinds
    if not context.grammar.mapping_kinds:
        return
    owners = [number for number, domain in enumerate(context.domains) if domain.devices]
    actor = context.actor(context.pick(owners) if owners and context.chance(0.9) else None)
    mapper = append_dma_mapping(context, actor)
    iova = mapper.values[context.grammar.traits[mapper.kind].positions["iova"][0]]
    context.iova_focus = iova if isinstance(iova, int) else None
    context.frame_focus = context.frames_of(mapper)
    for left in range(1 + context.below(4), -1, -1):
        choice = context.rng.random()
        if choice < 0.15:
            dma_engine_driver(context, actor)
        elif choice < 0.3 and context.grammar.frame_kinds:
            append_with_prerequisites(
                context,
                context.pick(context.grammar.frame_kinds),
                actor,
                careful=CAREFUL_PREREQUISITE if left else CAREFUL_LAST,
            )
        else:
            append_with_prerequisites(
                context, context.pick(kinds), actor, careful=CAREFUL_PREREQUISITE if left else CAREFUL_LAST
            )
    context.frame_focus = context.iova_focus = None
