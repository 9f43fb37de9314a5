"""Judges each invalidation of the TLB: it drops what its instruction names, no less and no more. Audited runs only.

A guest's own invalidations are nobody's business but the guest's, unless they leave what the guest believes gone; and a
hypervisor that drops more than it must hides that it drops something too late. Helper of the oracle `stale`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hvfuzz.machine.mmu.tlb import Tlb
from hvfuzz.oracles.hardware.second_caches import WHAT, SecondCaches, contents, difference

if TYPE_CHECKING:
    from collections.abc import Callable

    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

NAMES: Final = ("invlpg", "invpcid", "invvpid", "flush_vpid", "flush_pcid", "invept", "set_capacity")
"""Methods of `Tlb` and of the second model that drop entries."""


class Invalidations:
    """Hooks the TLB of one machine, and reports the rule `invalidation` of the oracle."""

    __snapshot_leaf__ = True
    __slots__ = ("_hooked", "_report", "_tlb")
    oracle = "stale"

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        self._tlb: Final = scene.machine.tlb
        self._report: Final = scene.report
        self._hooked: Final[dict[type[Tlb], type[Tlb]]] = {}
        """Class of TLB, which another watcher may have hooked first -> that class with the hooks of this one."""

    def hook(self, on: bool) -> None:
        """Judge each invalidation from now on, or stop."""
        below = type(self._tlb)
        if not on:
            self._tlb.__class__ = Tlb
        elif below not in self._hooked.values():
            if below not in self._hooked:
                self._hooked[below] = _judged_tlb(below, self._judge)
            self._tlb.__class__ = self._hooked[below]

    def reset(self) -> None:
        """Nothing is kept between two invalidations."""

    def host_exception(self, fault: BaseException) -> None:
        """What was dropped before is judged already."""

    def _judge(self, name: str, second: SecondCaches) -> None:
        for what, found, right in zip(WHAT, contents(self._tlb), second.contents(), strict=True):
            if found != right:
                text = f"after {name}, the {what}: {difference(found, right)}"
                self._report(self.oracle, "invalidation", text)
                return


def _judged_tlb(base: type[Tlb], judge: Callable[[str, SecondCaches], None]) -> type[Tlb]:
    """A class of TLB, otherwise as `base`, that calls `judge`(name, second model) after each invalidation."""

    def judged(name: str) -> Callable[..., None]:
        subject = getattr(base, name)

        def invalidate(tlb: Tlb, *operands: Any) -> None:
            second = SecondCaches(tlb)
            subject(tlb, *operands)
            getattr(second, name)(*operands)
            judge(name, second)

        return invalidate

    return type("JudgedTlb", (base,), {"__slots__": (), **{name: judged(name) for name in NAMES}})
