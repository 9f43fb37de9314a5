"""The local APICs as they should be: the specification's, next to the registers that lie in the hypervisor's memory.

They are looked at in each exit of a program once it has touched one, and in every audit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from hvfuzz.machine.cpu.processor_state import HALTED
from hvfuzz.machine.cpu.registers import RFLAGS
from hvfuzz.machine.mmu.paging import RFLAGS_IF
from hvfuzz.oracles.contract.spec.platform import apic
from hvfuzz.oracles.contract.spec.platform.apic import Words

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.scene.scene import Scene

FIRST_MSR: Final = 0x800
END: Final = 0xC00
STRIDE: Final = 2
"""Words from one register to the next."""


class Apics:
    """What every APIC holds, by the specification."""

    __slots__ = ("_base", "_known", "_running", "_scene", "_vcpus", "_words", "touched")

    def __init__(self, scene: Scene) -> None:
        self._scene: Final = scene
        self._vcpus: Final = scene.machine.vcpus
        self._words: Final = scene.words
        self._known: list[Words] = []
        self._base: list[Words] = []
        self._running: dict[int, None] = {}
        """Ids of vCPUs whose timer counts."""
        self.touched = False
        """This program has accessed an APIC."""

    def attach(self) -> None:
        """The APICs are as they should be."""
        self._base = [self.words(vcpu) for vcpu in self._vcpus]
        self._known = [words.copy() for words in self._base]

    def reset(self) -> None:
        """The machine is back at its snapshot."""
        if self.touched:
            self._known = [words.copy() for words in self._base]
            self._running.clear()
            self.touched = False

    def words(self, vcpu: VCpu) -> Words:
        """The registers of an APIC, from the bytes."""
        # Not through the hypervisor's own array: watching is no work of the host's.
        first: int = list.__getitem__(self._scene.hypervisor.apics, vcpu.id) >> 3
        return self._words[first : first + STRIDE * apic.PLACES : STRIDE].tolist()

    def takes_interrupt(self, vcpu: VCpu) -> bool:
        """Whether `vcpu` would take an interrupt, if it ran guest code now."""
        flags = vcpu.vmcs.saved[RFLAGS] if vcpu.in_root else vcpu.regs[RFLAGS]
        return apic.deliverable(self.words(vcpu), bool(flags & RFLAGS_IF))

    def tick(self, cycles: int) -> None:
        """An exit began at `cycles`: timers are looked at."""
        now = apic.rounded(cycles)
        for number in sorted(self._running):
            if not apic.tick(self._known[number], now):
                del self._running[number]

    def read(self, vcpu: VCpu, index: int, told: int) -> int | None:
        """What RDMSR of an APIC's register gives, if the domain is told the time `told`; None: #GP(0)."""
        return apic.reads(self._known[vcpu.id], index - FIRST_MSR, told)

    def write(self, vcpu: VCpu, index: int, value: int, cycles: int) -> bool:
        """WRMSR of an APIC's register, in an exit that began at `cycles`; False: #GP(0)."""
        register = index - FIRST_MSR
        if not apic.takes(register, value):
            return False
        domain = [other for other in self._vcpus if other.domain == vcpu.domain]
        chips = [self._known[other.id] for other in domain]
        apic.written(chips, domain.index(vcpu), register, value, apic.rounded(cycles))
        if register == apic.INITIAL:
            self._running.pop(vcpu.id, None)
            if value:
                self._running[vcpu.id] = None
        return True

    def differences(self) -> Iterator[str]:
        """What is wrong with the APICs, in words; it is taken as it is from now on."""
        for vcpu, known in zip(self._vcpus, self._known, strict=True):
            words = self.words(vcpu)
            if words != known:
                place = next(at for at in range(apic.PLACES) if words[at] != known[at])
                text = f"{words[place]:#x} where it should be {known[place]:#x}"
                known[:] = words
                yield f"register {place:#x} of the APIC of vCPU {vcpu.index} of dom{vcpu.domain} is {text}"
            if vcpu.runnable == HALTED and self.takes_interrupt(vcpu):
                yield f"vCPU {vcpu.index} of dom{vcpu.domain} sleeps on although there is an interrupt for it"
