"""The full audit: a second shadow, read from scratch, must equal the one that followed every write.

In an audit the other oracles check the whole state by the rules that they otherwise apply to changes only. A violation
that shows up only then was missed by watching: `FindingLog` reports it under the name of this oracle, with the other
oracle's name and rule as the rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

from hvfuzz.oracles.framework.oracle import Oracle, Rules
from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

_Index: TypeAlias = Mapping[Any, tuple[Any, ...]]


class Audit(Oracle):
    """Following changes and reading the whole state give the same result."""

    name = "audit"
    shadowed = True
    rules: ClassVar[Rules] = {
        "shadow": "the shadow that follows writes equals a shadow read from scratch",
        "oracle.rule": "checking the whole state finds no violation that following changes missed",
    }

    def audit(self) -> None:
        """Build a second shadow and compare the two."""
        followed = self.shadow
        fresh = PageTableShadow(self.scene)
        fresh.attach()
        self._compare("entries of tables", followed.entries, fresh.entries)
        self._compare("tables", followed.tables, fresh.tables)
        self._compare("present entries of tables", followed.populations, fresh.populations)
        self._compare("context entries", followed.contexts, fresh.contexts)
        self._compare_unordered("leaves of frames", followed.leaves, fresh.leaves)
        self._compare_unordered("large leaves of blocks", followed.large, fresh.large)
        self._compare_unordered("pages of grant mappings", followed.sides, fresh.sides)
        lists: tuple[tuple[str, Sequence[Any], Sequence[Any]], ...] = (
            ("frame words", followed.frames.values, fresh.frames.values),
            ("frames in each state", followed.state_counts, fresh.state_counts),
            ("grant entries", followed.grants, fresh.grants),
            ("grant mappings", followed.handles, fresh.handles),
            ("tables of each domain", followed.table_counts, fresh.table_counts),
        )
        for what, one, other in lists:
            if one != other:
                self._compare(what, dict(enumerate(one)), dict(enumerate(other)))

    def _compare(self, what: str, followed: Mapping[Any, Any], fresh: Mapping[Any, Any]) -> None:
        if followed == fresh:
            return
        for key in sorted({*followed, *fresh}):
            if followed.get(key) != fresh.get(key):
                text = f"{what}, {key}: {followed.get(key)} in the shadow, {fresh.get(key)} in memory"
                self.report("shadow", text)
                return

    def _compare_unordered(self, what: str, followed: _Index, fresh: _Index) -> None:
        if followed != fresh:
            self._compare(what, _unordered(followed), _unordered(fresh))


def _unordered(index: _Index) -> dict[Any, list[Any]]:
    """A reverse index without the order of insertion."""
    return {key: sorted(values) for key, values in index.items()}
