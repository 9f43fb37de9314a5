"""The grammar of generated programs: a catalogue of op kinds with weights, and groups of kinds by what they do."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from random import Random
from typing import Final

from hvfuzz.guest.grammar.op_traits import Traits
from hvfuzz.guest.grammar.op_weights import ANY_KIND, weight_of
from hvfuzz.guest.grammar.weighted_choice import WeightedChoice
from hvfuzz.guest.program.argument_kinds import ANY_RESOURCE
from hvfuzz.guest.program.instruction_kinds import TRAP_FAMILIES
from hvfuzz.guest.program.ops import Catalogue, OpKind


class Grammar:
    """A catalogue with weights; `weights` are by name or family of the kind and override DEFAULT_WEIGHTS.

    A kind of weight 0 is neither generated nor inserted. All groups below hold kinds with a weight above 0 only.
    Raises ValueError if `weights` has an unknown name, or if all weights are 0.
    """

    __slots__ = (
        "_choice",
        "_second_step",
        "bulk_kinds",
        "bulk_producers",
        "catalogue",
        "consumers",
        "frame_kinds",
        "instructions",
        "iova_kinds",
        "mapping_kinds",
        "mode_kinds",
        "populating_kinds",
        "producers",
        "range_consumers",
        "traits",
        "traps",
        "weights",
    )

    def __init__(self, catalogue: Catalogue, weights: Mapping[str, int] | None = None) -> None:
        weights = weights or {}
        families = {kind.family for kind in catalogue.kinds}
        for name in weights:
            if name not in catalogue.by_name and name not in families and name != ANY_KIND:
                raise ValueError(f"weights: '{name}' is neither a kind of op nor a family of kinds")
        self.catalogue: Final = catalogue
        self.weights: Final = {kind: weight_of(kind, weights) for kind in catalogue.kinds}
        self.traits: Final = {kind: Traits(kind) for kind in catalogue.kinds}
        kinds = [kind for kind in catalogue.kinds if self.weights[kind] > 0]
        if not kinds:
            raise ValueError("weights: every kind of op has weight 0")
        self._choice: Final = WeightedChoice((kind, self.weights[kind]) for kind in kinds)
        self._second_step: Final = {
            resource: seconds
            for resource, producers in catalogue.producers.items()
            if (seconds := [kind for kind in producers if self.weights[kind] and self._takes(kind, resource)])
        }
        """By resource: the kinds that both take and produce it."""
        self.consumers: Final[dict[str, list[OpKind]]] = {}
        """By resource: the kinds that take it, in a field or in an array."""
        for kind in kinds:
            resources = {each.resource: None for each in self.traits[kind].consumers}
            for at in self.traits[kind].arrays:
                element = kind.fields[at].kind.element
                if element is not None and element.consumes is not None and element.consumes != ANY_RESOURCE:
                    resources[element.consumes] = None
            for resource in resources:
                self.consumers.setdefault(resource, []).append(kind)
        self.frame_kinds: Final = tuple(kind for kind in kinds if "gfn" in self.traits[kind].positions)
        """Kinds with a frame number."""
        self.populating_kinds: Final = tuple(
            kind for kind in self.frame_kinds if self.traits[kind].populates and not self.traits[kind].consumers
        )
        """Kinds that put memory at free frame numbers, and take no resource."""
        self.mapping_kinds: Final = tuple(
            kind for kind in kinds if self.traits[kind].gfns and "iova" in self.traits[kind].positions
        )
        """Kinds with a device address and a frame number: they map the frame for a device."""
        self.iova_kinds: Final = tuple(kind for kind in kinds if "iova" in self.traits[kind].positions)
        """Kinds with a device address."""
        self.range_consumers: Final[dict[str, tuple[OpKind, ...]]] = {}
        """By pool: the kinds that take a range of its values, as a first one and a count."""
        for kind in kinds:
            traits = self.traits[kind]
            if traits.count is not None and not traits.arrays:
                for pool in ("gfn", "iova", *self.consumers):
                    if len(traits.positions.get(pool, ())) == 1:
                        self.range_consumers[pool] = (*self.range_consumers.get(pool, ()), kind)
        self.bulk_kinds: Final = tuple(
            kind
            for kind in kinds
            if kind.number is not None
            and (
                kind.produces in self.consumers
                or any(pool in self.range_consumers for pool in self.traits[kind].positions)
            )
        )
        """Hypercalls to repeat before one call about all of them: their results or values make up a range."""
        self.producers: Final = tuple(kind for kind in kinds if kind.produces in self.consumers)
        """Kinds whose result another kind takes."""
        self.bulk_producers: Final = tuple(kind for kind in self.bulk_kinds if kind.produces in self.range_consumers)
        """Kinds of which another kind takes a range of results."""
        self.mode_kinds: Final = tuple(kind for kind in kinds if self.traits[kind].mode_fields and kind.follow is None)
        """Kinds with flags, rights, counts or other modifiers."""
        self.instructions: Final = tuple(kind for kind in kinds if kind.number is None)
        self.traps: Final = tuple(kind for kind in kinds if kind.family in TRAP_FAMILIES)

    def _takes(self, kind: OpKind, resource: str) -> bool:
        return any(each.resource == resource for each in self.traits[kind].consumers)

    def choose_kind(self, rng: Random) -> OpKind:
        """A kind of op, chosen by weight."""
        return self._choice.choose(rng)

    def allowed(self, name: str) -> OpKind | None:
        """The kind of that name; None if the catalogue lacks it or its weight is 0."""
        kind = self.catalogue.by_name.get(name)
        return kind if kind is not None and self.weights[kind] > 0 else None

    def choose_producer(self, resource: str, last: bool, rng: Random) -> OpKind | None:
        """A kind of op that produces the resource, mostly in the wanted step (see `made_in_step`); None if none may."""
        kinds = [kind for kind in self.catalogue.producers.get(resource, ()) if self.weights[kind] > 0]
        if rng.random() < 0.85:
            kinds = [kind for kind in kinds if self.made_in_step(kind, resource, last)] or kinds
        return kinds[int(rng.random() * len(kinds))] if kinds else None

    def made_in_step(self, kind: OpKind, resource: str, last: bool) -> bool:
        """Whether this producer makes the resource in its first step or, with `last`, in its last step.

        Some resources are made in two steps: one domain allocates an event port, and another binds it. A consumer
        that names the first domain takes the allocated port; every other consumer takes its own domain's end.
        """
        return resource not in self._second_step or (kind in self._second_step[resource]) is last


@lru_cache(maxsize=256)
def _cached_grammar(catalogue: Catalogue, weights: tuple[tuple[str, int], ...]) -> Grammar:
    return Grammar(catalogue, dict(weights))


def grammar_for(catalogue: Catalogue, weights: Mapping[str, int] | None = None) -> Grammar:
    """The grammar of `catalogue` with these weights; the same object for equal arguments."""
    return _cached_grammar(catalogue, tuple(weights.items()) if weights else ())
