"""The full audit: a second shadow, read from scratch, must equal the one that was followed word by word.

The other oracles' own audits look at everything that there is, by the rules by which they otherwise look at changes
only. What they find then, and did not find before, was missed by watching; the suite reports it under this oracle's
name, with the other oracle's name and rule as the rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

from hvfuzz.oracles.framework.oracle import Oracle, Rules
from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

_Index: TypeAlias = Mapping[Any, tuple[Any, ...]]


class Audit(Oracle):
    """Watching and looking agree."""

    name = "audit"
    shadowed = True
    rules: ClassVar[Rules] = {
        "shadow": "the shadow followed by watching writes is the one that reading everything gives",
        "oracle.rule": "looking at everything breaks no rule of an oracle that watching did not see broken",
    }

    def audit(self) -> None:
        """Build a second shadow and compare."""
        followed = self.shadow
        fresh = PageTableShadow(self.scene)
        fresh.attach()
        self._compare("entries of tables", followed.entries, fresh.entries)
        self._compare("tables", followed.tables, fresh.tables)
        self._compare("present entries of tables", followed.populations, fresh.populations)
        self._compare("context entries", followed.contexts, fresh.contexts)
        self._compare_unordered("leaves of frames", followed.leaves, fresh.leaves)
        self._compare_unordered("large leaves of blocks", followed.large, fresh.large)
        self._compare_unordered("places of grant mappings", followed.sides, fresh.sides)
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
                text = f"{what}, {key}: followed {followed.get(key)}, read {fresh.get(key)}"
                self.report("shadow", text)
                return

    def _compare_unordered(self, what: str, followed: _Index, fresh: _Index) -> None:
        if followed != fresh:
            self._compare(what, _unordered(followed), _unordered(fresh))


def _unordered(index: _Index) -> dict[Any, list[Any]]:
    """A reverse index without the order in which things came into it."""
    return {key: sorted(values) for key, values in index.items()}
