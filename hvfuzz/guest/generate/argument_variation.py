"""Varies an op: the same op with one argument changed."""

from __future__ import annotations

from collections.abc import Sequence

from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.values import choose_value, scalar
from hvfuzz.guest.program.program import MAX_ELEMENTS, Op, Ref, Value, is_array
from hvfuzz.machine.addresses import PAGE_SIZE, SIZE_MASK


def with_changed_argument(context: Context, op: Op, fields: Sequence[int] = ()) -> Op:
    """`op` with one value changed: one of `fields` as in generation; without `fields`, any field in any way."""
    if not op.values:
        return op
    at = context.pick(fields or range(len(op.values)))
    values = list(op.values)
    kind = op.kind.fields[at].kind
    value = values[at]
    changed: Value
    if isinstance(value, Ref) or kind.follow or fields:
        changed = choose_value(context, kind, op.actor)
    elif isinstance(value, int):
        if context.chance(0.6) and not is_array(kind):
            changed = scalar(context, kind, op.actor)
        elif context.chance(0.3):
            changed = choose_value(context, kind, op.actor)
        else:
            changed = _changed_bits(context, value, kind.width)
    else:
        changed = _changed_array(context, op, at, value)
    values[at] = changed
    return op._replace(values=tuple(values))


def _changed_array(context: Context, op: Op, at: int, value: tuple[int | Ref, ...]) -> Value:
    kind = op.kind.fields[at].kind
    elements = list(value)
    choice = context.rng.random()
    if not elements or choice < 0.12:
        return choose_value(context, kind, op.actor)
    place = context.below(len(elements))
    if choice < 0.6:
        element = elements[place]
        if isinstance(element, int) and context.chance(0.4):
            elements[place] = _changed_bits(context, element, kind.element_at(place).width)
        else:
            elements[place] = scalar(context, kind.element_at(place), op.actor)
    elif choice < 0.75 and len(elements) < MAX_ELEMENTS:
        elements.append(scalar(context, kind.element_at(len(elements)), op.actor))
    elif choice < 0.85 and len(elements) < MAX_ELEMENTS:
        # Checks of lists tend to miss duplicates.
        elements.append(elements[place])
        if not _fits(op, at, elements):
            elements.pop()
    elif choice < 0.95:
        del elements[place:]
    else:
        elements.reverse()
    return tuple(elements) if _fits(op, at, elements) else value


def _fits(op: Op, at: int, elements: list[int | Ref]) -> bool:
    """Whether each reference is at a place that takes one: the words of a ring differ in kind."""
    kind = op.kind.fields[at].kind
    return all(
        not isinstance(each, Ref) or kind.element_at(place).consumes is not None for place, each in enumerate(elements)
    )


def _changed_bits(context: Context, value: int, width: int) -> int:
    """`value` after one small change, truncated to `width` bytes."""
    choice = context.below(7)
    if choice < 2:
        value += context.pick((1, -1, 2, -2, 4, 8, -8, 16))
    elif choice == 2:
        value += context.pick((PAGE_SIZE, -PAGE_SIZE, 1 << 21, 1 << 30, 512, -512))
    elif choice < 5:
        value ^= 1 << context.below(8 * width)
    elif choice == 5:
        value = ~value if context.chance(0.5) else -value
    else:
        value <<= context.pick((1, 3, 12)) if context.chance(0.5) else 0
        value ^= 0xFF << 8 * context.below(width)
    return value & SIZE_MASK[width]
