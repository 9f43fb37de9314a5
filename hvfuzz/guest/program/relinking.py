"""References of ops to earlier results, replaced where ops of a program move."""

from collections.abc import Callable

from hvfuzz.guest.program.program import Op, Ref, Value


def relink(op: Op, link: Callable[[Ref], int | Ref]) -> Op:
    """Replace every reference to an earlier result in `op`, and in its race, by `link(reference)`."""

    def value_of(value: Value) -> Value:
        if isinstance(value, Ref):
            return link(value)
        if isinstance(value, tuple):
            return tuple(link(each) if isinstance(each, Ref) else each for each in value)
        return value

    race = None if op.race is None else op.race._replace(op=relink(op.race.op, link))
    return op._replace(values=tuple(map(value_of, op.values)), race=race)
