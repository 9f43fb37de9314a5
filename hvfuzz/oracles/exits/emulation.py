"""Expected guest registers after an instruction that the hypervisor emulates.

Computed from the contract (`spec/`) and from the state when the exit began. Helper of the oracle `exits`; reports
nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from hvfuzz.machine.addresses import U64
from hvfuzz.machine.cpu.faults import Vector
from hvfuzz.machine.cpu.msrs import TSC, TSC_AUX
from hvfuzz.machine.cpu.registers import RAX, RBX, RCX, RDX, Saved
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.oracles.contract.spec.calls.time import Reading, counter_read, rounded
from hvfuzz.oracles.contract.spec.cells import ClockWindow
from hvfuzz.oracles.contract.spec.platform.apic import TPR
from hvfuzz.oracles.contract.spec.platform.cpuid import cpuid
from hvfuzz.oracles.contract.spec.platform.msr import KEPT, msr_value
from hvfuzz.oracles.exits.local_apics import END, FIRST_MSR, Apics

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.scene.exit_fields import ExitFields
    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

CPUID: Final = ExitReason.CPUID
RDTSCP: Final = ExitReason.RDTSCP
TIME_STAMPS: Final = (ExitReason.RDTSC, RDTSCP)
CR_ACCESS: Final = ExitReason.CR_ACCESS
TRIPLE_FAULT: Final = ExitReason.TRIPLE_FAULT
INVALID_GUEST_STATE: Final = ExitReason.INVALID_GUEST_STATE
EPT_VIOLATION: Final = ExitReason.EPT_VIOLATION
HARDWARE: Final = 3
"""Event type in the IDT-vectoring information: hardware exception (SDM Vol. 3C, table 25-20)."""
SERIOUS: Final = (0, 10, 11, 12, 13, 14)
"""Contributory exceptions and #PF: #GP during their delivery is a double fault (SDM Vol. 3A, tables 6-4 and 6-5)."""
FROM_CR: Final = 1 << 4
"""In the exit qualification of CR_ACCESS: MOV from CR; otherwise MOV to CR (SDM Vol. 3C, table 28-3)."""
RDMSR: Final = ExitReason.RDMSR
WRMSR: Final = ExitReason.WRMSR
ACCESSES: Final = (RDMSR, WRMSR)
SHUTDOWNS: Final = (TRIPLE_FAULT, INVALID_GUEST_STATE)
MSRS: Final = int(Saved.MSRS)
LOW: Final = 0xFFFF_FFFF


class Emulation:
    """Follows the exits of one machine that emulate an instruction."""

    __slots__ = ("_calls", "_clock", "_offset", "_offsets", "_shadow", "_vcpus", "_window", "_written", "apics")

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        self._shadow: Final = shadow
        self._calls: Final = scene.calls
        self._clock: Final = scene.machine.clock
        self._window = ClockWindow(0, 0)
        self._offset = 0
        """The TSC offset that the vCPU of the present exit must have had when the exit began."""
        self._vcpus: Final = scene.machine.vcpus
        self._offsets: list[int] = []
        """The TSC offset of each vCPU, by id, at the snapshot."""
        self._written: dict[int, int] = {}
        """Id of a vCPU -> its TSC offset, if it has changed since."""
        self.apics: Final = Apics(scene)

    def attach(self) -> None:
        """Take the current state, which `booted_vcpus` checks, as the base."""
        self._offsets = [vcpu.vmcs.tsc_offset for vcpu in self._vcpus]
        self.apics.attach()
        self.reset()

    def reset(self) -> None:
        """Follow the machine's reset to its snapshot."""
        self._written.clear()
        self.apics.reset()

    def started(self, vcpu: VCpu) -> None:
        """Record clock reads when an exit other than a hypercall begins, and find the TSC offset."""
        domain = self._shadow.domains[vcpu.domain]
        self._window = ClockWindow(domain.clock_window, domain.clock_reads)
        self._offset = self._written.get(vcpu.id, self._offsets[vcpu.id])
        fields = self._calls.exit
        if fields.reason is CR_ACCESS or (fields.reason in ACCESSES and FIRST_MSR <= fields.leaf < END):
            self.apics.touched = True

    def expect(self, vcpu: VCpu, expected: list[Any]) -> bool:
        """Apply the effect of the instruction to `expected`, the registers at the exit.

        Returns False, with nothing changed, if the guest gets #GP(0) instead.
        """
        fields = self._calls.exit
        reason = fields.reason
        if reason is CPUID:
            vcpus = len(self._shadow.domains[vcpu.domain].vcpus)
            registers = cpuid(fields.leaf, expected[RCX] & LOW, vcpu.index, vcpus)
            expected[RAX], expected[RBX], expected[RCX], expected[RDX] = registers
        elif reason in TIME_STAMPS:
            self._put(expected, self._counter())
            if reason is RDTSCP:
                expected[RCX] = expected[MSRS].get(TSC_AUX, 0)
        elif reason is RDMSR:
            value = self._read(vcpu, fields.leaf)
            if value is None:
                return False
            self._put(expected, value)
        elif reason is WRMSR:
            return self._write(vcpu, fields.leaf, (expected[RAX] & LOW) | (expected[RDX] & LOW) << 32)
        elif reason is CR_ACCESS:
            return self._task_priority(vcpu, expected)
        return True

    def ends_at(self) -> int:
        """The clock after the exit: the time at its start and of races, plus the wait for a clock read."""
        return self._reading().cycles if reads_clock(self._calls.exit) else self._calls.read_at

    def keeps_offset(self, vcpu: VCpu) -> bool:
        """Whether `vcpu` has the TSC offset that it had before the exit. The present one is adopted."""
        offset = vcpu.vmcs.tsc_offset
        if offset == self._written.get(vcpu.id, self._offsets[vcpu.id]):
            return True
        self._written[vcpu.id] = offset
        return False

    def wrong_offset(self, vcpu: VCpu) -> bool:
        """Whether `vcpu` has a wrong TSC offset after its exit (SDM Vol. 3C, 25.6.5). The present one is adopted."""
        vmcs = vcpu.vmcs
        expected, fields = self._offset, self._calls.exit
        if fields.reason is WRMSR and fields.leaf == TSC:
            left = self._calls.left
            value: int = (left[RAX] & LOW) | (left[RDX] & LOW) << 32
            expected = value - rounded(self._calls.read_at) & U64
        if vmcs.tsc_offset != self._offset:
            self._written[vcpu.id] = vmcs.tsc_offset
        return vmcs.tsc_offset != expected

    def wrong_offsets(self) -> Iterator[VCpu]:
        """The vCPUs whose TSC offset has changed without their doing."""
        for vcpu, base in zip(self._vcpus, self._offsets, strict=True):
            if vcpu.vmcs.tsc_offset != self._written.get(vcpu.id, base):
                yield vcpu

    def _reading(self) -> Reading:
        return counter_read(self._window, self._calls.read_at)

    def _counter(self) -> int:
        return self._reading().told + self._offset & U64

    def _read(self, vcpu: VCpu, index: int) -> int | None:
        if index == TSC:
            return self._counter()
        if FIRST_MSR <= index < END:
            return self.apics.read(vcpu, index)
        return msr_value(index, vcpu.index)

    def _write(self, vcpu: VCpu, index: int, value: int) -> bool:
        if FIRST_MSR <= index < END:
            return self.apics.write(vcpu, index, value)
        return index == TSC or (index in KEPT and msr_value(index, vcpu.index) == value)

    def _task_priority(self, vcpu: VCpu, expected: list[Any]) -> bool:
        """MOV to or from CR8: bits 7..4 of TPR, and no other of CR8 can be set (SDM Vol. 3A, 11.8.6)."""
        qualification = self._calls.exit.qualification
        register = qualification >> 8 & 0xF
        if qualification & FROM_CR:
            expected[register] = (self.apics.read(vcpu, FIRST_MSR + TPR) or 0) >> 4
            return True
        value = expected[register]
        return value < 16 and self.apics.write(vcpu, FIRST_MSR + TPR, value << 4)

    @staticmethod
    def _put(expected: list[Any], value: int) -> None:
        expected[RAX], expected[RDX] = value & LOW, value >> 32


def refusal(fields: ExitFields) -> int:
    """Vector of the exception for an access that stage 2 refuses; -1 for a triple fault.

    #GP; during the delivery of #DE, #TS, #NP, #SS, #GP or #PF, a double fault; during that of a double fault, a triple
    fault (SDM Vol. 3A, tables 6-4 and 6-5).
    """
    vectoring = fields.vectoring
    if vectoring >> 31 and vectoring >> 8 & 7 == HARDWARE:
        vector = vectoring & 0xFF
        if vector == Vector.DF:
            return -1
        if vector in SERIOUS:
            return Vector.DF
    return Vector.GP


def is_shutdown(fields: ExitFields) -> bool:
    """Whether an exit stops the vCPU for ever: triple fault, or a guest state that VM entry refuses."""
    reason = fields.reason
    return reason in SHUTDOWNS or (reason is EPT_VIOLATION and refusal(fields) < 0)


def reads_clock(fields: ExitFields) -> bool:
    """Whether an exit reads the clock of the domain."""
    return fields.reason in TIME_STAMPS or (fields.reason is RDMSR and fields.leaf == TSC)
