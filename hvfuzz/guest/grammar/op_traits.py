"""The roles of the fields of one kind of op, derived from their kinds: which count, which name domains, and so on.

A field is given by its position among the fields of the kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from hvfuzz.abi.kinds import Kind
from hvfuzz.guest.program.argument_kinds import ANY_RESOURCE
from hvfuzz.guest.program.ops import OpKind
from hvfuzz.guest.program.program import is_array

SHARED_POOLS: Final[Mapping[str, str]] = MappingProxyType({"frame_or_ref": "gfn"})
"""Kinds whose values go to the pool of another kind, because they fit there."""
_MODE_KINDS: Final = ("count", "order", "length", "offset")
"""Kinds without symbols that modify an operation."""
_OBJECT_KINDS: Final = ("domain", "register", "msr", "control", "call_number")
"""Kinds with symbols that name the operation's object."""


class Consumer(NamedTuple):
    """A field that takes a resource."""

    position: int
    resource: str
    owner: int | None
    """The field that names the domain which owns the resource; None: the caller owns it."""


class Traits:
    """The roles of the fields of one kind of op."""

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
        """Whether only the control domain may make the call."""
        self.domains: Final = _fields_of_kind(kind, "domain")
        self.gfns: Final = _fields_of_kind(kind, "gfn")
        self.order: Final = next(iter(_fields_of_kind(kind, "order")), None)
        """The field with the size of each block, as log2 of its frames."""
        self.arrays: Final = tuple(at for at, field in enumerate(kind.fields) if is_array(field.kind))
        counts = _fields_of_kind(kind, "count") + _fields_of_kind(kind, "length")
        self.count: Final = counts[0] if counts else None
        """The number of array elements or of items in a range."""
        self.partial_counts: Final = counts[1:] if self.arrays else ()
        """Fields that select some of the array's elements."""
        self.consumers: Final = tuple(
            Consumer(at, field.kind.consumes, self._owner(field.name))
            for at, field in enumerate(kind.fields)
            if field.kind.consumes is not None and field.kind.consumes != ANY_RESOURCE
        )
        own = [each for each in self.consumers if each.owner is None]
        self.range_fields: Final = (
            (own[0], self.count) if len(own) == 1 and self.count is not None and not self.arrays else None
        )
        """(Field of the first of the caller's resources in a range, field of their number), if the op takes a range."""
        self.mode_fields: Final = tuple(
            at
            for at, field in enumerate(kind.fields)
            if (field.kind.names or field.kind.name in _MODE_KINDS) and field.kind.name not in _OBJECT_KINDS
        )
        """Fields that modify the operation and leave its object: flags, rights, counts."""
        self.populates: Final = len(self.gfns) == 1 and (self.order is not None or bool(self.consumers))
        """Whether its gfn should be a free frame number: it puts memory or a mapping there."""
        self.ref_flags: Final = self._ref_flags()
        """(Field of flags, bit, field that the bit declares to be a grant reference rather than a frame number)."""
        self.readonly: Final = next(
            ((at, bit) for at in _fields_of_kind(kind, "flags") if (bit := kind.fields[at].kind.names.get("READONLY"))),
            None,
        )
        """(Field of flags, READONLY bit)."""
        positions: dict[str, list[int]] = {}
        for at, field in enumerate(kind.fields):
            positions.setdefault(pool_of(field.kind), []).append(at)
        self.positions: Final = {pool: tuple(fields) for pool, fields in positions.items()}
        """The fields by pool (see `pool_of`)."""
        self.needs_mapping: Final = "iova" in self.positions and not self.gfns
        """Whether it uses device addresses that another op has to map first."""

    def _owner(self, consumer: str) -> int | None:
        """The owner field of the field named `consumer`: `from_domain` owns `from`; else the first domain owns all."""
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
    """The name of the pool in which values of this kind are reused; for an array, the pool of its elements."""
    if is_array(kind) and kind.element is not None:
        kind = kind.element
    return SHARED_POOLS.get(kind.name, kind.name)
