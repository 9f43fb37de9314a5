"""How the fields of one kind of op belong together."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from hvfuzz.abi.kinds import Kind
from hvfuzz.guest.program.argument_kinds import ANY_RESOURCE
from hvfuzz.guest.program.ops import OpKind
from hvfuzz.guest.program.program import is_array

POOLS: Final[Mapping[str, str]] = MappingProxyType({"frame_or_ref": "gfn"})
"""Kinds whose values are of use where another kind is wanted, too."""
_MANNER: Final = ("count", "order", "length", "offset")
_IDENTITY: Final = ("domain", "register", "msr", "control", "call_number")
"""Kinds that have names, or count, and yet say what is meant."""


class Consumer(NamedTuple):
    """A field that takes a resource."""

    position: int
    resource: str
    owner: int | None
    """Position of the field that names the domain whose resource it is; None if it is the caller's own."""


class Traits:
    """How the fields of one kind of op belong together."""

    __slots__ = (
        "arrays",
        "consumers",
        "count",
        "domains",
        "gfns",
        "kind",
        "mode_fields",
        "needs_mapping",
        "order",
        "partial_counts",
        "populates",
        "positions",
        "privileged",
        "range_fields",
        "readonly",
        "ref_flags",
    )

    def __init__(self, kind: OpKind) -> None:
        self.kind: Final = kind
        self.privileged: Final = kind.declaration is not None and kind.declaration.privileged
        self.domains: Final = _fields_of_kind(kind, "domain")
        self.gfns: Final = _fields_of_kind(kind, "gfn")
        self.order: Final = next(iter(_fields_of_kind(kind, "order")), None)
        self.arrays: Final = tuple(at for at, field in enumerate(kind.fields) if is_array(field.kind))
        counts = _fields_of_kind(kind, "count") + _fields_of_kind(kind, "length")
        self.count: Final = counts[0] if counts else None
        """Where it says how many elements (or entries) there are."""
        self.partial_counts: Final = counts[1:] if self.arrays else ()
        """Where it says how many of them are meant."""
        self.consumers: Final = tuple(
            Consumer(at, field.kind.consumes, self._owner(field.name))
            for at, field in enumerate(kind.fields)
            if field.kind.consumes is not None and field.kind.consumes != ANY_RESOURCE
        )
        own = [each for each in self.consumers if each.owner is None]
        self.range_fields: Final = (
            (own[0], self.count) if len(own) == 1 and self.count is not None and not self.arrays else None
        )
        """The field that takes the first of several results of the caller's, and the one that counts them."""
        self.mode_fields: Final = tuple(
            at
            for at, field in enumerate(kind.fields)
            if (field.kind.names or field.kind.name in _MANNER) and field.kind.name not in _IDENTITY
        )
        """Where it says how something is done, and not to what."""
        self.populates: Final = len(self.gfns) == 1 and (self.order is not None or bool(self.consumers))
        """Whether it puts something where a guest has no memory, rather than take memory that it has."""
        self.ref_flags: Final = self._ref_flags()
        """(Position of flags, bit, position of the field which that bit makes a reference, not a number)."""
        self.readonly: Final = next(
            ((at, bit) for at in _fields_of_kind(kind, "flags") if (bit := kind.fields[at].kind.names.get("READONLY"))),
            None,
        )
        """(Position of flags, the bit that asks for no more than to read)."""
        spots: dict[str, list[int]] = {}
        for at, field in enumerate(kind.fields):
            spots.setdefault(pool_of(field.kind), []).append(at)
        self.positions: Final = {name: tuple(positions) for name, positions in spots.items()}
        """Positions by the pool of values that they share."""
        self.needs_mapping: Final = "iova" in self.positions and not self.gfns
        """Whether it uses device addresses that something else has to map."""

    def _owner(self, consumer: str) -> int | None:
        """`from_domain` is the owner of `from`; else the first domain named is the owner of all."""
        for at in self.domains:
            if self.kind.fields[at].name.startswith(consumer):
                return at
        return self.domains[0] if self.domains else None

    def _ref_flags(self) -> tuple[tuple[int, int, int], ...]:
        for at, field in enumerate(self.kind.fields):
            bits = [bit for name, bit in field.kind.names.items() if name.endswith("_REF")]
            if field.kind.flags and bits and len(bits) == len(self.consumers):
                return tuple((at, bit, each.position) for bit, each in zip(bits, self.consumers, strict=True))
        return ()


def _fields_of_kind(kind: OpKind, name: str) -> tuple[int, ...]:
    return tuple(at for at, field in enumerate(kind.fields) if field.kind.name == name)


def pool_of(kind: Kind) -> str:
    """The pool of values that a field of this kind shares with others; for an array, that of its elements."""
    if is_array(kind) and kind.element is not None:
        kind = kind.element
    return POOLS.get(kind.name, kind.name)
