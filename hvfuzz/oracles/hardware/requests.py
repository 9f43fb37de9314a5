"""Judges each request that a function makes of the IOMMU, and each command of the hypervisor. Audited runs only.

Helper of the oracle `stale`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hvfuzz.machine.vtd.iommu import DmaFault, Iommu
from hvfuzz.oracles.hardware.second_caches import difference
from hvfuzz.oracles.hardware.second_iommu import WHAT, SecondIommu, state

if TYPE_CHECKING:
    from collections.abc import Callable

    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

COMMANDS: Final = ("enable", "disable", "set_capacity", "invalidate_context", "invalidate_iotlb")
"""Methods of `Iommu` and of the second model by which software changes it."""


class Requests:
    """Hooks the IOMMU of one machine, and reports the rule `remapping` of the oracle."""

    __snapshot_leaf__ = True
    __slots__ = ("_hooked", "_iommu", "_report", "words")
    oracle = "stale"

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        self._iommu: Final = scene.machine.iommu
        self._report: Final = scene.report
        self.words: Final = scene.words
        self._hooked: Final[dict[type[Iommu], type[Iommu]]] = {}
        """Class of IOMMU, which another watcher may have hooked first -> that class with the hooks of this one."""

    def hook(self, on: bool) -> None:
        """Judge each request and command from now on, or stop."""
        below = type(self._iommu)
        if not on:
            self._iommu.__class__ = Iommu
        elif below not in self._hooked.values():
            if below not in self._hooked:
                self._hooked[below] = _judged_iommu(below, self)
            self._iommu.__class__ = self._hooked[below]

    def reset(self) -> None:
        """Nothing is kept between two requests."""

    def host_exception(self, fault: BaseException) -> None:
        """What was done before is judged already."""

    def judge(self, after: str, outcome: tuple[Any, ...], second: SecondIommu, expected: tuple[Any, ...]) -> None:
        """Compare the IOMMU with the second model."""
        pairs = (("outcome", outcome, expected), *zip(WHAT, state(self._iommu), second.state(), strict=True))
        for what, found, right in pairs:
            if found != right:
                self._report(self.oracle, "remapping", f"after {after}, the {what}: {difference(found, right)}")
                return


def _judged_iommu(base: type[Iommu], requests: Requests) -> type[Iommu]:
    """A class of IOMMU, otherwise as `base`, whose requests and commands `requests` judges."""

    def translate(iommu: Iommu, bdf: int, iova: int, access: int) -> int:
        second = SecondIommu(iommu, requests.words)
        expected = second.translate(bdf, iova, access)
        after = f"a request (access {access}) of device {bdf:#06x} at {iova:#x}"
        try:
            hpa = base.translate(iommu, bdf, iova, access)
        except DmaFault as fault:
            requests.judge(after, ("blocked", int(fault.reason), fault.bdf, fault.iova), second, expected)
            raise
        requests.judge(after, ("page", hpa), second, expected)
        return hpa

    def judged(name: str) -> Callable[..., None]:
        subject = getattr(base, name)

        def command(iommu: Iommu, *operands: Any, **named: Any) -> None:
            second = SecondIommu(iommu, requests.words)
            subject(iommu, *operands, **named)
            getattr(second, name)(*operands, **named)
            requests.judge(name, (), second, ())

        return command

    return type(
        "JudgedIommu", (base,), {"__slots__": (), "translate": translate, **{name: judged(name) for name in COMMANDS}}
    )
