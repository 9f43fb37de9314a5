"""Compares the local APICs in the hypervisor's memory with those of the specification.

They are compared in every audit, and after each exit once the program has accessed an APIC. Helper of the oracle
`exits`; reports nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from hvfuzz.abi.limits import CLOCK_TICK
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
    """The expected registers of every APIC."""

    __slots__ = ("_base", "_known", "_scene", "_tick", "_vcpus", "_words", "touched")

    def __init__(self, scene: Scene) -> None:
        self._scene: Final = scene
        self._vcpus: Final = scene.machine.vcpus
        self._words: Final = scene.words
        self._known: list[Words] = []
        self._base: list[Words] = []
        self._tick = 0
        """The tick to which the timers have advanced."""
        self.touched = False
        """Whether this program has accessed an APIC."""

    def attach(self) -> None:
        """Take the current registers, which `booted_vcpus` checks, as the base."""
        self._base = [self.words(vcpu) for vcpu in self._vcpus]
        self._known = [words.copy() for words in self._base]

    def reset(self) -> None:
        """Follow the machine's reset to its snapshot."""
        if self.touched:
            self._known = [words.copy() for words in self._base]
            self._tick = 0
            self.touched = False

    def words(self, vcpu: VCpu) -> Words:
        """The registers of the APIC of `vcpu`: those in memory, and the timer's count."""
        # Bypasses `HostArray`: an oracle's access must not count as work of the hypervisor.
        first: int = list.__getitem__(self._scene.hypervisor.apics, vcpu.id) >> 3
        words: Words = self._words[first : first + STRIDE * apic.PLACES : STRIDE].tolist()
        end = self._scene.hypervisor.apic_timers.get(vcpu.id)
        if end is not None:
            words[apic.CURRENT] += (end - self._tick * CLOCK_TICK) // apic.SPEEDS[words[apic.DIVIDE]]
        return words

    def takes_interrupt(self, vcpu: VCpu) -> bool:
        """Whether an interrupt is deliverable to `vcpu` now."""
        flags = vcpu.vmcs.saved[RFLAGS] if vcpu.in_root else vcpu.regs[RFLAGS]
        return apic.deliverable(self.words(vcpu), bool(flags & RFLAGS_IF))

    def tick(self, cycles: int) -> bool:
        """Advance the timers for an exit that began at `cycles`. Whether a tick has begun since the last exit."""
        passed = cycles // CLOCK_TICK - self._tick
        if passed:
            self._tick += passed
            for known in self._known:
                apic.pass_ticks(known, passed)
        return bool(passed)

    def read(self, vcpu: VCpu, index: int) -> int | None:
        """Expected value of RDMSR of APIC MSR `index`; None for #GP(0)."""
        words = self._known[vcpu.id]
        if index - FIRST_MSR == apic.CURRENT:
            return max(words[apic.CURRENT] - self._fallen(words), 0)
        return apic.reads(words, index - FIRST_MSR)

    def _fallen(self, words: Words) -> int:
        """What a count has fallen in this exit, in which a race lets time pass: `tick` knows only of its start."""
        passed = self._scene.calls.read_at // CLOCK_TICK - self._tick
        return passed * CLOCK_TICK // apic.SPEEDS[words[apic.DIVIDE]]

    def write(self, vcpu: VCpu, index: int, value: int) -> bool:
        """Apply WRMSR of APIC MSR `index`; False for #GP(0)."""
        register = index - FIRST_MSR
        if not apic.takes(register, value):
            return False
        domain = [other for other in self._vcpus if other.domain == vcpu.domain]
        chips = [self._known[other.id] for other in domain]
        words = self._known[vcpu.id]
        left = max(words[apic.CURRENT] - self._fallen(words), 0) if register == apic.DIVIDE else value
        apic.written(chips, domain.index(vcpu), register, value)
        if register in (apic.INITIAL, apic.DIVIDE):
            # `tick` lets the count fall from the start of the exit on.
            words[apic.CURRENT] = left + self._fallen(words) if left else 0
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
