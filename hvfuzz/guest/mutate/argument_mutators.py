"""The same op with one argument changed."""

from __future__ import annotations

from collections.abc import Sequence

from hvfuzz.guest.generate.context import Context
from hvfuzz.guest.generate.hostile import mangled_value
from hvfuzz.guest.generate.values import choose, scalar
from hvfuzz.guest.program.program import MAX_ELEMENTS, Op, Ref, Value, is_array


def tweaked(context: Context, op: Op, fields: Sequence[int] = ()) -> Op:
    """`op` with a value as it could have been made with for one of these `fields`; or, if there are none, with any
    value for any field."""
    if not op.values:
        return op
    at = context.pick(fields or range(len(op.values)))
    values = list(op.values)
    kind = op.kind.fields[at].kind
    value = values[at]
    changed: Value
    if isinstance(value, Ref) or kind.follow or fields:
        changed = choose(context, kind, op.actor)
    elif isinstance(value, int):
        if context.chance(0.6) and not is_array(kind):
            changed = scalar(context, kind, op.actor)
        elif context.chance(0.3):
            changed = choose(context, kind, op.actor)
        else:
            changed = mangled_value(context, value, kind.width)
    else:
        changed = _tweaked_array(context, op, at, value)
    values[at] = changed
    return op._replace(values=tuple(values))


def _tweaked_array(context: Context, op: Op, at: int, value: tuple[int | Ref, ...]) -> Value:
    kind = op.kind.fields[at].kind
    elements = list(value)
    choice = context.rng.random()
    if not elements or choice < 0.12:
        return choose(context, kind, op.actor)
    place = context.below(len(elements))
    if choice < 0.6:
        element = elements[place]
        if isinstance(element, int) and context.chance(0.4):
            elements[place] = mangled_value(context, element, kind.element_at(place).width)
        else:
            elements[place] = scalar(context, kind.element_at(place), op.actor)
    elif choice < 0.75 and len(elements) < MAX_ELEMENTS:
        elements.append(scalar(context, kind.element_at(len(elements)), op.actor))
    elif choice < 0.85 and len(elements) < MAX_ELEMENTS:
        # An element that comes twice is what checks of lists forget.
        elements.append(elements[place])
        if not _fits(op, at, elements):
            elements.pop()
    elif choice < 0.95:
        del elements[place:]
    else:
        elements.reverse()
    return tuple(elements) if _fits(op, at, elements) else value


def _fits(op: Op, at: int, elements: list[int | Ref]) -> bool:
    """Whether each reference is where the array takes one: the words of a ring differ in kind."""
    kind = op.kind.fields[at].kind
    return all(
        not isinstance(each, Ref) or kind.element_at(place).consumes is not None for place, each in enumerate(elements)
    )
