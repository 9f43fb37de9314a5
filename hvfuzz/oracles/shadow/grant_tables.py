"""The grant entries and grant mappings of all domains as they were last read from the hypervisor's arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from hvfuzz.oracles.shadow.changes import Change, differences, sides_of
from hvfuzz.oracles.shadow.rewindable import ShadowMap

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain, Grant, Mapping


class GrantTables:
    """Follows the arrays of all domains.

    The hypervisor's arrays stay the same objects, and their elements are tuples, which are replaced when they change:
    so an array is compared with its last copy in one go, pointer by pointer.
    """

    __slots__ = ("_base_grants", "_base_handles", "_live_grants", "_live_handles", "grants", "handles", "sides")

    def __init__(self, domains: Sequence[Domain]) -> None:
        self._live_grants: Final[list[list[Grant | None]]] = [domain.grants for domain in domains]
        self._live_handles: Final[list[list[Mapping | None]]] = [domain.handles for domain in domains]
        self.grants: Final[list[list[Grant | None]]] = []
        """Domain -> its grant entries, by reference."""
        self.handles: Final[list[list[Mapping | None]]] = []
        """Domain -> its grant mappings, by handle."""
        self.sides: Final[ShadowMap[tuple[int, int], tuple[Mapping, ...]]] = ShadowMap()
        """(space, page) -> the live grant mappings that have a side there."""
        self._base_grants: list[list[Grant | None]] = []
        self._base_handles: list[list[Mapping | None]] = []

    def read(self) -> None:
        """Read all arrays: this is the base."""
        for number, (grants, handles) in enumerate(zip(self._live_grants, self._live_handles, strict=True)):
            self.grants.append(list(grants))
            self.handles.append(list(handles))
            for mapping in self.handles[number]:
                self._move_sides(number, None, mapping)
        self._base_grants = list(self.grants)
        self._base_handles = list(self.handles)
        self.sides.rebase()

    def reset(self) -> None:
        """Return to the base."""
        self.grants[:] = self._base_grants
        self.handles[:] = self._base_handles
        self.sides.reset()

    def follow(self, change: Change) -> bool:
        """Note in `change` what differs from the last copies; whether anything does."""
        if self._live_grants == self.grants and self._live_handles == self.handles:
            return False
        for number, (live_grants, live_handles) in enumerate(zip(self._live_grants, self._live_handles, strict=True)):
            if live_grants != self.grants[number]:
                grants = list(live_grants)
                for ref, old, new in differences(self.grants[number], grants):
                    change.entries.append((number, ref, old, new))
                self.grants[number] = grants
            if live_handles != self.handles[number]:
                handles = list(live_handles)
                for handle, before, after in differences(self.handles[number], handles):
                    change.handles.append((number, handle, before, after))
                    self._move_sides(number, before, after)
                self.handles[number] = handles
        return True

    def _move_sides(self, number: int, before: Mapping | None, after: Mapping | None) -> None:
        """A mapping of a domain was `before` and is `after`: keep `sides` in step."""
        sides = self.sides
        if before is not None:
            for key in sides_of(number, before):
                left = list(sides.get(key, ()))
                if before in left:
                    left.remove(before)
                if left:
                    sides.put(key, tuple(left))
                else:
                    sides.drop(key)
        if after is not None:
            for key in sides_of(number, after):
                sides.put(key, (*sides.get(key, ()), after))
