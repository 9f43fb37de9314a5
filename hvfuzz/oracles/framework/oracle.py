"""The base class of all oracles: a name, the rules in words, and the methods that the suite calls.

Beyond the methods of this class, an oracle defines a method for each event that it listens to: `events.EVENTS` lists
them all, with their parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias

from hvfuzz.oracles.scene.scene import Scene

if TYPE_CHECKING:
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

Rules: TypeAlias = Mapping[str, str]
"""Name of each rule -> what it demands."""


class Oracle:
    """One class of invariants. `rules` says, for each rule that it can report, what the rule demands."""

    __snapshot_leaf__ = True

    name: ClassVar[str]
    rules: ClassVar[Rules]
    shadowed: ClassVar[bool] = False
    """Whether the oracle reads the shadow, which then has to be kept up to date."""

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        self.scene: Final = scene
        self.shadow: Final = shadow

    def attach(self) -> None:
        """Learn the machine as it is now: the base state that `reset` returns to."""

    def reset(self) -> None:
        """Return to the base state, after the machine was put back to its snapshot."""

    def audit(self) -> None:
        """Check the whole state, not only what changed."""

    def host_exception(self, fault: BaseException) -> None:
        """An exception escaped from the hypervisor's code."""

    def report(self, rule: str, message: str) -> None:
        """Report that `rule` is broken; `message` says in one line what was seen and where."""
        self.scene.report(self.name, rule, message)
