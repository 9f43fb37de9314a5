"""A catalogue with weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from random import Random
from typing import Final

from hvfuzz.guest.grammar.op_traits import Traits
from hvfuzz.guest.grammar.op_weights import ANY_KIND, weight_of
from hvfuzz.guest.grammar.weighted_choice import WeightedChoice
from hvfuzz.guest.program.argument_kinds import ANY_RESOURCE
from hvfuzz.guest.program.ops import Catalogue, OpKind


class Grammar:
    """A catalogue with weights: `weights` by kind of op, else by family, else as DEFAULT_WEIGHTS has it.

    A kind of weight 0 is never generated nor inserted. ValueError for a name that is no kind and no family, and
    where all weights are 0.
    """

    __slots__ = (
        "_choice",
        "_kinds",
        "_two_steps",
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
                raise ValueError(f"a weight is given to '{name}', which is no kind of op and no family")
        self.catalogue: Final = catalogue
        self.weights: Final = {kind: weight_of(kind, weights) for kind in catalogue.kinds}
        self.traits: Final = {kind: Traits(kind) for kind in catalogue.kinds}
        self._kinds = [kind for kind in catalogue.kinds if self.weights[kind] > 0]
        if not self._kinds:
            raise ValueError("no kind of op has a weight above 0")
        self._choice: Final = WeightedChoice((kind, self.weights[kind]) for kind in self._kinds)
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
        self.frame_kinds: Final = tuple(kind for kind in self._kinds if "gfn" in self.traits[kind].positions)
        """The allowed kinds that are about frames."""
        self.populating_kinds: Final = tuple(
            kind for kind in self.frame_kinds if self.traits[kind].populates and not self.traits[kind].consumers
        )
        """Those that put memory where there is none, and need nothing for it."""
        self.mapping_kinds: Final = tuple(
            kind for kind in self._kinds if self.traits[kind].gfns and "iova" in self.traits[kind].positions
        )
        """The allowed kinds that name a device address and a frame: these let devices reach it."""

        self.iova_kinds: Final = tuple(kind for kind in self._kinds if "iova" in self.traits[kind].positions)
        """Those that are about device addresses."""
        sweepers: dict[str, tuple[OpKind, ...]] = {}
        for kind in self._kinds:
            traits = self.traits[kind]
            if traits.count is not None and not traits.arrays:
                for pool in ("gfn", "iova", *consumers):
                    if len(traits.positions.get(pool, ())) == 1:
                        sweepers[pool] = (*sweepers.get(pool, ()), kind)
        self.range_consumers: Final = sweepers
        """Those that are about several in a row, by resource or kind of address."""
        self.bulk_kinds: Final = tuple(
            kind
            for kind in self._kinds
            if kind.number is not None
            and (kind.produces in consumers or any(pool in sweepers for pool in self.traits[kind].positions))
        )
        """The calls that make what another takes, or are about what others take several of."""
        self.producers: Final = tuple(kind for kind in self._kinds if kind.produces in consumers)
        """Those whose result another takes."""
        self.bulk_producers: Final = tuple(kind for kind in self.bulk_kinds if kind.produces in sweepers)
        """Those of them whose results another takes several of."""
        self.mode_kinds: Final = tuple(
            kind for kind in self._kinds if self.traits[kind].mode_fields and kind.follow is None
        )
        """Those that can be done in several ways."""
        self.instructions: Final = tuple(kind for kind in self._kinds if kind.number is None)
        self.traps: Final = tuple(kind for kind in self._kinds if kind.family == "trap")

    def _takes(self, kind: OpKind, resource: str) -> bool:
        return any(each.resource == resource for each in self.traits[kind].consumers)

    def choose_kind(self, rng: Random) -> OpKind:
        """A kind of op, as often as its weight says."""
        return self._choice.choose(rng)

    def allowed(self, name: str) -> OpKind | None:
        """The kind of that name, unless it is missing or its weight is 0."""
        kind = self.catalogue.by_name.get(name)
        return kind if kind is not None and self.weights[kind] > 0 else None

    def choose_producer(self, resource: str, last: bool, rng: Random) -> OpKind | None:
        """An allowed kind of op that produces the resource, rather one of the step that is wanted (see `made_in`)."""
        kinds = [kind for kind in self.catalogue.producers.get(resource, ()) if self.weights[kind] > 0]
        if rng.random() < 0.85:
            kinds = [kind for kind in kinds if self.made_in_step(kind, resource, last)] or kinds
        return kinds[int(rng.random() * len(kinds))] if kinds else None

    def made_in_step(self, kind: OpKind, resource: str, last: bool) -> bool:
        """Whether this producer makes the resource in the first step, or, with `last`, in the last one.

        Some are made in two steps, as a port that one domain allocates and another binds: whoever names the first
        domain takes what that one has made, and all that follows takes its own domain's end.
        """
        return resource not in self._two_steps or (kind in self._two_steps[resource]) is last


@lru_cache(maxsize=64)
def _cached_grammar(catalogue: Catalogue, weights: tuple[tuple[str, int], ...]) -> Grammar:
    return Grammar(catalogue, dict(weights))


def grammar_for(catalogue: Catalogue, weights: Mapping[str, int] | None = None) -> Grammar:
    """The grammar of these weights, made once."""
    return _cached_grammar(catalogue, tuple(weights.items()) if weights else ())
