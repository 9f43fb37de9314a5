"""What generation knows of each kind of op: how often it comes, and how its fields belong together."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping
from functools import lru_cache
from itertools import accumulate
from random import Random
from types import MappingProxyType
from typing import Final, NamedTuple

from hvfuzz.abi.kinds import Kind
from hvfuzz.guest.program.ops import ANY_RESOURCE, Catalogue, OpKind
from hvfuzz.guest.program.program import is_array

ANY_KIND: Final = "*"
"""In weights, what the kinds get that are named neither themselves nor by their family."""
DEFAULT_WEIGHTS: Final[Mapping[str, int]] = MappingProxyType(
    {
        ANY_KIND: 12,
        "discovery": 3,
        "sched": 6,
        "console": 4,
        "time": 4,
        "device.assign": 4,
        "device.deassign": 3,
        "load": 8,
        "store": 12,
        "execute": 3,
        "pte": 6,
        "mmio_read": 3,
        "mmio_write": 6,
        "raw": 3,
        "trap": 1,
        "tlb": 3,
    }
)
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
        "fills",
        "gfns",
        "kind",
        "manner",
        "order",
        "parts",
        "privileged",
        "reaches",
        "readonly",
        "ref_flags",
        "spots",
        "sweeps",
    )

    def __init__(self, kind: OpKind) -> None:
        self.kind: Final = kind
        self.privileged: Final = kind.declaration is not None and kind.declaration.privileged
        self.domains: Final = _named(kind, "domain")
        self.gfns: Final = _named(kind, "gfn")
        self.order: Final = next(iter(_named(kind, "order")), None)
        self.arrays: Final = tuple(at for at, field in enumerate(kind.fields) if is_array(field.kind))
        counts = _named(kind, "count") + _named(kind, "length")
        self.count: Final = counts[0] if counts else None
        """Where it says how many elements (or entries) there are."""
        self.parts: Final = counts[1:] if self.arrays else ()
        """Where it says how many of them are meant."""
        self.consumers: Final = tuple(
            Consumer(at, field.kind.consumes, self._owner(field.name))
            for at, field in enumerate(kind.fields)
            if field.kind.consumes is not None and field.kind.consumes != ANY_RESOURCE
        )
        own = [each for each in self.consumers if each.owner is None]
        self.sweeps: Final = (
            (own[0], self.count) if len(own) == 1 and self.count is not None and not self.arrays else None
        )
        """The field that takes the first of several results of the caller's, and the one that counts them."""
        self.manner: Final = tuple(
            at
            for at, field in enumerate(kind.fields)
            if (field.kind.names or field.kind.name in _MANNER) and field.kind.name not in _IDENTITY
        )
        """Where it says how something is done, and not to what."""
        self.fills: Final = len(self.gfns) == 1 and (self.order is not None or bool(self.consumers))
        """Whether it puts something where a guest has no memory, rather than take memory that it has."""
        self.ref_flags: Final = self._ref_flags()
        """(Position of flags, bit, position of the field which that bit makes a reference, not a number)."""
        self.readonly: Final = next(
            ((at, bit) for at in _named(kind, "flags") if (bit := kind.fields[at].kind.names.get("READONLY"))), None
        )
        """(Position of flags, the bit that asks for no more than to read)."""
        spots: dict[str, list[int]] = {}
        for at, field in enumerate(kind.fields):
            spots.setdefault(pool_of(field.kind), []).append(at)
        self.spots: Final = {name: tuple(positions) for name, positions in spots.items()}
        """Positions by the pool of values that they share."""
        self.reaches: Final = "iova" in self.spots and not self.gfns
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


def _named(kind: OpKind, name: str) -> tuple[int, ...]:
    return tuple(at for at, field in enumerate(kind.fields) if field.kind.name == name)


def pool_of(kind: Kind) -> str:
    """The pool of values that a field of this kind shares with others; for an array, that of its elements."""
    if is_array(kind) and kind.element is not None:
        kind = kind.element
    return POOLS.get(kind.name, kind.name)


class Grammar:
    """A catalogue with weights: `weights` by kind of op, else by family, else as DEFAULT_WEIGHTS has it.

    A kind of weight 0 is never generated nor inserted. ValueError for a name that is no kind and no family, and
    where all weights are 0.
    """

    __slots__ = (
        "_cumulative",
        "_kinds",
        "_two_steps",
        "addressed",
        "catalogue",
        "consumers",
        "fillers",
        "framed",
        "instructions",
        "makers",
        "mappers",
        "piled",
        "producers",
        "settings",
        "sweepers",
        "traits",
        "traps",
        "weights",
    )

    def __init__(self, catalogue: Catalogue, weights: Mapping[str, int] | None = None) -> None:
        weights = weights or {}
        families = {kind.family for kind in catalogue.kinds}
        for name in weights:
            if name not in catalogue.by_name and name not in families and name != ANY_KIND:
                raise ValueError(f"a weight is given to '{name}', which is no kind of op and no family")
        self.catalogue: Final = catalogue
        self.weights: Final = {kind: _weight(kind, weights) for kind in catalogue.kinds}
        self.traits: Final = {kind: Traits(kind) for kind in catalogue.kinds}
        self._kinds = [kind for kind in catalogue.kinds if self.weights[kind] > 0]
        if not self._kinds:
            raise ValueError("no kind of op has a weight above 0")
        self._cumulative = list(accumulate(self.weights[kind] for kind in self._kinds))
        self._two_steps = {
            resource: seconds
            for resource, kinds in catalogue.producers.items()
            if (seconds := [kind for kind in kinds if self.weights[kind] and self._takes(kind, resource)])
        }
        consumers: dict[str, list[OpKind]] = {}
        for kind in self._kinds:
            resources = {each.resource: None for each in self.traits[kind].consumers}
            for at in self.traits[kind].arrays:
                element = kind.fields[at].kind.element
                if element is not None and element.consumes is not None and element.consumes != ANY_RESOURCE:
                    resources[element.consumes] = None
            for resource in resources:
                consumers.setdefault(resource, []).append(kind)
        self.consumers: Final = consumers
        """The allowed kinds that take a given resource."""
        self.framed: Final = tuple(kind for kind in self._kinds if "gfn" in self.traits[kind].spots)
        """The allowed kinds that are about frames."""
        self.fillers: Final = tuple(
            kind for kind in self.framed if self.traits[kind].fills and not self.traits[kind].consumers
        )
        """Those that put memory where there is none, and need nothing for it."""
        self.mappers: Final = tuple(
            kind for kind in self._kinds if self.traits[kind].gfns and "iova" in self.traits[kind].spots
        )
        """The allowed kinds that name a device address and a frame: these let devices reach it."""

        self.addressed: Final = tuple(kind for kind in self._kinds if "iova" in self.traits[kind].spots)
        """Those that are about device addresses."""
        sweepers: dict[str, tuple[OpKind, ...]] = {}
        for kind in self._kinds:
            traits = self.traits[kind]
            if traits.count is not None and not traits.arrays:
                for pool in ("gfn", "iova", *consumers):
                    if len(traits.spots.get(pool, ())) == 1:
                        sweepers[pool] = (*sweepers.get(pool, ()), kind)
        self.sweepers: Final = sweepers
        """Those that are about several in a row, by resource or kind of address."""
        self.piled: Final = tuple(
            kind
            for kind in self._kinds
            if kind.number is not None
            and (kind.produces in consumers or any(pool in sweepers for pool in self.traits[kind].spots))
        )
        """The calls that make what another takes, or are about what others take several of."""
        self.producers: Final = tuple(kind for kind in self._kinds if kind.produces in consumers)
        """Those whose result another takes."""
        self.makers: Final = tuple(kind for kind in self.piled if kind.produces in sweepers)
        """Those of them whose results another takes several of."""
        self.settings: Final = tuple(kind for kind in self._kinds if self.traits[kind].manner and kind.follow is None)
        """Those that can be done in several ways."""
        self.instructions: Final = tuple(kind for kind in self._kinds if kind.number is None)
        self.traps: Final = tuple(kind for kind in self._kinds if kind.family == "trap")

    def _takes(self, kind: OpKind, resource: str) -> bool:
        return any(each.resource == resource for each in self.traits[kind].consumers)

    def kind(self, rng: Random) -> OpKind:
        """A kind of op, as often as its weight says."""
        return self._kinds[bisect(self._cumulative, int(rng.random() * self._cumulative[-1]))]

    def allowed(self, name: str) -> OpKind | None:
        """The kind of that name, unless it is missing or its weight is 0."""
        kind = self.catalogue.by_name.get(name)
        return kind if kind is not None and self.weights[kind] > 0 else None

    def producer(self, resource: str, last: bool, rng: Random) -> OpKind | None:
        """An allowed kind of op that produces the resource, rather one of the step that is wanted (see `made_in`)."""
        kinds = [kind for kind in self.catalogue.producers.get(resource, ()) if self.weights[kind] > 0]
        if rng.random() < 0.85:
            kinds = [kind for kind in kinds if self.made_in(kind, resource, last)] or kinds
        return kinds[int(rng.random() * len(kinds))] if kinds else None

    def made_in(self, kind: OpKind, resource: str, last: bool) -> bool:
        """Whether this producer makes the resource in the first step, or, with `last`, in the last one.

        Some are made in two steps, as a port that one domain allocates and another binds: whoever names the first
        domain takes what that one has made, and all that follows takes its own domain's end.
        """
        return resource not in self._two_steps or (kind in self._two_steps[resource]) is last


def _weight(kind: OpKind, weights: Mapping[str, int]) -> int:
    for table in (weights, DEFAULT_WEIGHTS):
        for name in (kind.name, kind.family, ANY_KIND):
            if name in table:
                return table[name]
    return 1


@lru_cache(maxsize=64)
def _grammar(catalogue: Catalogue, weights: tuple[tuple[str, int], ...]) -> Grammar:
    return Grammar(catalogue, dict(weights))


def grammar(catalogue: Catalogue, weights: Mapping[str, int] | None = None) -> Grammar:
    """The grammar of these weights, made once."""
    return _grammar(catalogue, tuple(weights.items()) if weights else ())
