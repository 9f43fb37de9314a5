"""The state of generation: the program under construction, its world, the random numbers, and hints to choices."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final, TypeVar

from hvfuzz.abi.boot import WORLDS
from hvfuzz.abi.limits import LARGE_ORDER, MAX_GFN
from hvfuzz.guest.grammar.grammar import Grammar
from hvfuzz.guest.program.argument_kinds import ANY_RESOURCE
from hvfuzz.guest.program.program import Actor, Op
from hvfuzz.machine.addresses import LARGE_FRAMES

T = TypeVar("T")
_WINDOW: Final = 24
"""Ops that are searched for values to reuse."""


class Context:
    """A program under construction, the random numbers, and the hints that its next choices follow."""

    __slots__ = (
        "_pools",
        "careful",
        "domains",
        "frame_focus",
        "free_frames",
        "grammar",
        "iova_focus",
        "large_blocks",
        "ops",
        "rng",
        "values_from",
        "wild",
        "world",
    )

    def __init__(
        self, grammar: Grammar, rng: Random, world: int, ops: list[Op], values_from: Sequence[Op] | None = None
    ) -> None:
        self.grammar: Final = grammar
        self.rng: Final = rng
        self.world: Final = world
        self.domains: Final = WORLDS[world].domains
        self.ops: Final = ops
        """The program so far; an argument may refer to the result of any of these ops."""
        self.values_from: Final = ops if values_from is None else values_from
        """The ops whose values are reused: a mutator adds those after the insertion point."""
        self.careful = False
        """Hint: choose values that the hypervisor is likely to accept."""
        self.wild = False
        """Hint: choose an edge or a random number."""
        self.frame_focus: tuple[int, int] | None = None
        """Hint: (first frame, number of frames) to use."""
        self.iova_focus: int | None = None
        """Hint: device address to use."""
        self.large_blocks = False
        """Hint: ask for memory in 2 MiB blocks."""
        self.free_frames = False
        """Hint: choose frame numbers without memory."""
        self._pools: dict[str, list[int]] = {}

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.rng.random() < probability

    def draw(self, likely: float) -> float:
        """A random number in [0, 1): below `likely` if `careful`, at or above it if `wild`.

        Callers place the choices that are likely to be accepted below `likely`.
        """
        number = self.rng.random()
        if self.careful:
            return number * likely
        return likely + number * (1 - likely) if self.wild else number

    def below(self, bound: int) -> int:
        """A random number from 0 to bound - 1."""
        return int(self.rng.random() * bound)

    def pick(self, choices: Sequence[T]) -> T:
        """One of `choices`, each equally likely."""
        return choices[int(self.rng.random() * len(choices))]

    def pick_recent(self, choices: Sequence[T]) -> T:
        """One of `choices`, later ones more often."""
        return choices[max(self.below(len(choices)), self.below(len(choices)))]

    def append(self, op: Op) -> None:
        """Append `op` to the program."""
        self.ops.append(op)
        self._pools.clear()

    def pool(self, name: str) -> list[int]:
        """The numbers that the program uses in fields of this pool (see `pool_of`), each as often as it occurs.

        In a long program, those of a random window of `_WINDOW` ops.
        """
        pool = self._pools.get(name)
        if pool is None:
            self._pools[name] = pool = []
            traits = self.grammar.traits
            ops = self.values_from
            start = self.below(len(ops) - _WINDOW + 1) if len(ops) > _WINDOW else 0
            for op in ops[start : start + _WINDOW]:
                for at in traits[op.kind].positions.get(name, ()):
                    value = op.values[at]
                    if type(value) is int:
                        pool.append(value)
                    elif type(value) is tuple:
                        pool.extend(each for each in value if type(each) is int)
        return pool

    def frames_of(self, op: Op) -> tuple[int, int] | None:
        """(First frame, number of frames) that an op works on; None if it names none below MAX_GFN."""
        traits = self.grammar.traits[op.kind]
        if not traits.gfns:
            return None
        gfn = op.values[traits.gfns[0]]
        count = op.values[traits.count] if traits.count is not None else 1
        if not isinstance(gfn, int) or not isinstance(count, int) or gfn >= MAX_GFN:
            return None
        if traits.order is not None and op.values[traits.order] == LARGE_ORDER:
            count = LARGE_FRAMES
        return gfn, max(min(count, LARGE_FRAMES), 1)

    def populated_frames(self, domain: int) -> list[tuple[int, int]]:
        """(First frame, number of frames) of each recent op with which the domain populated memory."""
        traits = self.grammar.traits
        ops = self.values_from[-_WINDOW:]
        found = [self.frames_of(op) for op in ops if traits[op.kind].populates and op.actor.domain == domain]
        return [frames for frames in found if frames is not None]

    def producers(self, resource: str) -> list[int]:
        """Indices of the ops so far that produce the resource."""
        if resource == ANY_RESOURCE:
            return [index for index, op in enumerate(self.ops) if op.kind.produces is not None]
        return [index for index, op in enumerate(self.ops) if op.kind.produces == resource]

    def actor(self, domain: int | None = None) -> Actor:
        """A vCPU of `domain`; if that is None or not in the world, of a random domain, rarely the control domain."""
        if domain is None or not 0 <= domain < len(self.domains):
            domain = self.below(len(self.domains))
            if self.domains[domain].privileged and self.chance(0.6):
                domain = self.below(len(self.domains))
        vcpus = self.domains[domain].vcpus
        return Actor(domain, self.below(vcpus) if vcpus > 1 and self.chance(0.5) else 0)

    def control_domain(self) -> int:
        """The number of the control domain; in a world without one, of a random domain."""
        for number, domain in enumerate(self.domains):
            if domain.privileged:
                return number
        return self.below(len(self.domains))
