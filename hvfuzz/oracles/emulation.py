"""What the guest finds in its registers after an instruction that the hypervisor carried out in its place.

Computed from the contract (`spec/`) and from what there was when the exit began: an oracle's part, not one itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hvfuzz.machine.addresses import U64
from hvfuzz.machine.msrs import TSC_AUX
from hvfuzz.machine.vmcs import RAX, RBX, RCX, RDX, ExitReason, Saved
from hvfuzz.oracles.spec.cells import ClockWindow
from hvfuzz.oracles.spec.cpuid import cpuid
from hvfuzz.oracles.spec.time import Reading, counter_read

if TYPE_CHECKING:
    from hvfuzz.machine.cpu import VCpu
    from hvfuzz.oracles.oracle import Scene
    from hvfuzz.oracles.reachability import Reachability

CPUID: Final = ExitReason.CPUID
RDTSCP: Final = ExitReason.RDTSCP
TIME_STAMPS: Final = (ExitReason.RDTSC, RDTSCP)
MSRS: Final = int(Saved.MSRS)
LOW: Final = 0xFFFF_FFFF


class Emulation:
    """Follows the exits of one machine for instructions whose results are the hypervisor's."""

    __slots__ = ("_calls", "_clock", "_shadow", "_window")

    def __init__(self, scene: Scene, shadow: Reachability) -> None:
        self._shadow: Final = shadow
        self._calls: Final = scene.calls
        self._clock: Final = scene.machine.clock
        self._window = ClockWindow(0, 0)

    def started(self, vcpu: VCpu) -> None:
        """An exit other than a hypercall begins: remember how often the domain has read its clock."""
        domain = self._shadow.domains[vcpu.domain]
        self._window = ClockWindow(domain.clock_window, domain.clock_reads)

    def expect(self, vcpu: VCpu, expected: list[Any]) -> str:
        """Put into `expected`, the registers that the guest left with, what the instruction changes in them.

        What else is wrong is returned, in words.
        """
        vmcs = vcpu.vmcs
        reason = vmcs.reason
        if reason is CPUID:
            vcpus = len(self._shadow.domains[vcpu.domain].vcpus)
            registers = cpuid(vmcs.leaf, expected[RCX] & LOW, vcpu.index, vcpus)
            expected[RAX], expected[RBX], expected[RCX], expected[RDX] = registers
        elif reason in TIME_STAMPS:
            reading = self._reading()
            value = reading.told + vmcs.tsc_offset & U64
            expected[RAX], expected[RDX] = value & LOW, value >> 32
            if reason is RDTSCP:
                expected[RCX] = expected[MSRS].get(TSC_AUX, 0)
            if self._clock.cycles != reading.cycles:
                return f"the clock is at {self._clock.cycles} and not at {reading.cycles} after {reason.name}"
        return ""

    def _reading(self) -> Reading:
        return counter_read(self._window, self._calls.cycles)
