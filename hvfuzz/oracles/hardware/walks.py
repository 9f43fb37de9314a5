"""Judges each translation of a vCPU's address: its result, its cycles, what it writes, and what is cached afterwards.

Other oracles ask whether a translation is right. Here it has to be what the manual and the documented choices of the
machine make it, since a cache that forgets, keeps, or charges wrongly changes no result by itself. Audited runs only.
Helper of the oracle `principal`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hvfuzz.machine.cpu.faults import EptMisconfiguration, EptViolation, GuestFault
from hvfuzz.machine.mmu.ept import EPTP_ACCESSED_DIRTY
from hvfuzz.machine.mmu.stage1 import Mmu
from hvfuzz.oracles.hardware.second_caches import WHAT, SecondCaches, contents, difference
from hvfuzz.oracles.hardware.second_mmu import Refused, SecondMmu

if TYPE_CHECKING:
    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow


class Walks:
    """Hooks the MMU of one machine, and reports the rule `walk` of the oracle."""

    __snapshot_leaf__ = True
    __slots__ = ("_clock", "_hooked", "_mmu", "_report", "_size", "_tlb", "_words")
    oracle = "principal"

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        machine = scene.machine
        self._mmu: Final = machine.mmu
        self._tlb: Final = machine.tlb
        self._clock: Final = machine.clock
        self._words: Final = scene.words
        self._size: Final = scene.memory_size
        self._report: Final = scene.report
        self._hooked: Final = _hooked_mmu(self)

    def hook(self, on: bool) -> None:
        """Judge each translation from now on, or stop."""
        self._mmu.__class__ = self._hooked if on else Mmu

    def reset(self) -> None:
        """Nothing is kept between two translations."""

    def host_exception(self, fault: BaseException) -> None:
        """What was translated before is judged already."""

    def translate(self, vcpu: Any, gva: int, access: int, user: bool, smap: bool) -> tuple[SecondMmu, tuple[Any, ...]]:
        """The second model after this translation, and its outcome: "page" and the Hpa, or as `Refused`."""
        second = SecondMmu(self._words, self._size, SecondCaches(self._tlb))
        second.cycles = self._clock.cycles
        try:
            return second, ("page", second.translate(vcpu, gva, access, user, smap))
        except Refused as refused:
            return second, refused.args

    def judge(self, whose: str, outcome: tuple[Any, ...], second: SecondMmu, expected: tuple[Any, ...]) -> None:
        """Compare the processor after a translation with the second model."""
        written = {hpa: self._words[hpa >> 3] for hpa in second.written}
        wrong = (
            ("outcome", outcome, expected),
            ("clock", self._clock.cycles, second.cycles),
            ("words written", written, second.written),
            *zip(WHAT, contents(self._tlb), second.caches.contents(), strict=True),
        )
        for what, found, right in wrong:
            if found != right:
                text = difference(found, right)
                self._report(self.oracle, "walk", f"after a translation of {whose}, the {what}: {text}")
                return


def _hooked_mmu(walks: Walks) -> type[Mmu]:
    """A class of MMU each of whose translations `walks` judges."""

    class JudgedMmu(Mmu):
        """See `_hooked_mmu`."""

        __slots__ = ()

        def translate(self, vcpu: Any, gva: int, access: int, user: bool, smap: bool = True) -> int:
            if vcpu.eptp & EPTP_ACCESSED_DIRTY:
                return super().translate(vcpu, gva, access, user, smap)
            second, expected = walks.translate(vcpu, gva, access, user, smap)
            whose = f"{gva:#x} by VPID {vcpu.vpid} (access {access}, {'user' if user else 'supervisor'})"
            try:
                hpa = super().translate(vcpu, gva, access, user, smap)
            except GuestFault as fault:
                walks.judge(whose, ("fault", fault.vector, fault.error, fault.address), second, expected)
                raise
            except EptViolation as violation:
                outcome = ("violation", violation.gpa, violation.gva, violation.qualification)
                walks.judge(whose, outcome, second, expected)
                raise
            except EptMisconfiguration as broken:
                walks.judge(whose, ("misconfiguration", broken.gpa), second, expected)
                raise
            walks.judge(whose, ("page", hpa), second, expected)
            return hpa

    return JudgedMmu
