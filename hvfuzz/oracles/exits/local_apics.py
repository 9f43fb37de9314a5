"""Compares the local APICs in the hypervisor's memory with those of the specification.

They are compared in every audit, and after each exit once the program has accessed an APIC. Helper of the oracle
`exits`; reports nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from hvfuzz.machine.cpu.processor_state import HALTED
from hvfuzz.machine.cpu.registers import RFLAGS
from hvfuzz.machine.mmu.paging import RFLAGS_IF
from hvfuzz.oracles.contract.spec.calls.time import rounded
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
    """The expected registers of every APIC."""

    __slots__ = ("_base", "_known", "_running", "_scene", "_vcpus", "_words", "touched")

    def __init__(self, scene: Scene) -> None:
        self._scene: Final = scene
        self._vcpus: Final = scene.machine.vcpus
        self._words: Final = scene.words
        self._known: list[Words] = []
        self._base: list[Words] = []
        self._running: dict[int, None] = {}
        """Ids of the vCPUs whose timer is running, in order."""
        self.touched = False
        """Whether this program has accessed an APIC."""

    def attach(self) -> None:
        """Take the current registers as correct."""
        self._base = [self.words(vcpu) for vcpu in self._vcpus]
        self._known = [words.copy() for words in self._base]

    def reset(self) -> None:
        """Follow the machine's reset to its snapshot."""
        if self.touched:
            self._known = [words.copy() for words in self._base]
            self._running.clear()
            self.touched = False

    def words(self, vcpu: VCpu) -> Words:
        """The registers of the APIC of `vcpu`, read from memory."""
        # Bypasses `HostArray`: an oracle's access must not count as work of the hypervisor.
        first: int = list.__getitem__(self._scene.hypervisor.apics, vcpu.id) >> 3
        return self._words[first : first + STRIDE * apic.PLACES : STRIDE].tolist()

    def takes_interrupt(self, vcpu: VCpu) -> bool:
        """Whether an interrupt is deliverable to `vcpu` now."""
        flags = vcpu.vmcs.saved[RFLAGS] if vcpu.in_root else vcpu.regs[RFLAGS]
        return apic.deliverable(self.words(vcpu), bool(flags & RFLAGS_IF))

    def tick(self, cycles: int) -> None:
        """Expire the timers of an exit that began at `cycles`."""
        now = rounded(cycles)
        for number in sorted(self._running):
            if not apic.tick(self._known[number], now):
                del self._running[number]

    def read(self, vcpu: VCpu, index: int, told: int) -> int | None:
        """Expected value of RDMSR of APIC MSR `index`, if the domain's clock reads `told`; None for #GP(0)."""
        return apic.reads(self._known[vcpu.id], index - FIRST_MSR, told)

    def write(self, vcpu: VCpu, index: int, value: int, cycles: int) -> bool:
        """Apply WRMSR of APIC MSR `index`, in an exit that began at `cycles`; False for #GP(0)."""
        register = index - FIRST_MSR
        if not apic.takes(register, value):
            return False
        domain = [other for other in self._vcpus if other.domain == vcpu.domain]
        chips = [self._known[other.id] for other in domain]
        apic.written(chips, domain.index(vcpu), register, value, rounded(cycles))
        if register == apic.INITIAL:
            self._running.pop(vcpu.id, None)
            if value:
                self._running[vcpu.id] = None
        return True

    def differences(self) -> Iterator[str]:
        """Yield a message for each wrong APIC, and adopt its current registers."""
        for vcpu, known in zip(self._vcpus, self._known, strict=True):
            words = self.words(vcpu)
            if words != known:
                place = next(at for at in range(apic.PLACES) if words[at] != known[at])
                text = f"{words[place]:#x}, expected {known[place]:#x}"
                known[:] = words
                yield f"register {place:#x} of the APIC of vCPU {vcpu.index} of dom{vcpu.domain} is {text}"
            if vcpu.runnable == HALTED and self.takes_interrupt(vcpu):
                yield f"vCPU {vcpu.index} of dom{vcpu.domain} stays halted although an interrupt is deliverable"
