"""Containers that return to a base state, in time proportional to the number of changes since."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ShadowMap(dict[K, V], Generic[K, V]):
    """A dict whose changes since `rebase` can be undone. From `rebase` on, only `put` and `drop` may change it.

    It keeps the base value of each key that changed. Reading costs nothing extra, and a key that changes a hundred
    times is put back once.
    """

    __slots__ = ("_base",)

    def __init__(self) -> None:
        super().__init__()
        self._base: Final[dict[K, Any]] = {}

    def put(self, key: K, value: V) -> None:
        """Set one value, which must not be None."""
        if key not in self._base:
            self._base[key] = self.get(key)
        self[key] = value

    def put_new(self, items: list[tuple[K, V]]) -> None:
        """Set many values; all their keys must be absent."""
        base = self._base
        for key, _ in items:
            if key not in base:
                base[key] = None
        self.update(items)

    def drop(self, key: K) -> None:
        """Remove one key; it may be absent."""
        if key not in self._base:
            self._base[key] = self.get(key)
        self.pop(key, None)

    def rebase(self) -> None:
        """Make the present state the base."""
        self._base.clear()

    def reset(self) -> None:
        """Return to the base. The order of the keys may differ, so nothing may depend on it."""
        if not self._base:
            return
        for key, value in self._base.items():
            if value is None:
                self.pop(key, None)
            else:
                self[key] = value
        self._base.clear()


class ShadowWords:
    """A list of numbers whose changes since `rebase` can be undone.

    Code that changes `values[index]` must append the index, or the slice, to `changed`.
    """

    __slots__ = ("_base", "changed", "values")

    def __init__(self, values: list[int]) -> None:
        self.values: list[int] = values
        self._base: list[int] = list(values)
        self.changed: list[int | slice] = []

    def rebase(self) -> None:
        """Make the present state the base."""
        self._base = list(self.values)
        self.changed.clear()

    def reset(self) -> None:
        """Return to the base."""
        values: Any = self.values
        base: Any = self._base
        for index in self.changed:
            values[index] = base[index]
        self.changed.clear()
