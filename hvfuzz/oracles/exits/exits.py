"""What a VM exit may do to vCPUs and devices: its own vCPU's registers as the reason says, and nobody else's.

Hypercalls are judged by the specification; this is the rest of the way: what the guest finds in its registers
afterwards, whatever it left for, and that an exit leaves alone what it has no business with: other vCPUs (which in an
op only change if they act in it), serial ports, and the registers of devices that it was not told to use. Its parts are
`emulation` for instructions, `ports` for port I/O, `registers` for devices and device models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from hvfuzz.machine.addresses import PAGE_SIZE, U64
from hvfuzz.machine.cpu.faults import GuestFault, Vector
from hvfuzz.machine.cpu.registers import RAX, RDX, REGISTERS, RIP, Reg, Saved
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.oracles.exits.bystanders import Bystanders
from hvfuzz.oracles.exits.emulation import Emulation
from hvfuzz.oracles.exits.model_comparison import DeviceModels
from hvfuzz.oracles.exits.models import all_models
from hvfuzz.oracles.exits.port_accesses import PortIo
from hvfuzz.oracles.exits.register_accesses import Registers
from hvfuzz.oracles.framework.oracle import Oracle, Rules
from hvfuzz.oracles.scene.scene import Scene

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

VMCALL: Final = ExitReason.VMCALL
TRIPLE_FAULT: Final = ExitReason.TRIPLE_FAULT
IO: Final = ExitReason.IO
EPT_VIOLATION: Final = ExitReason.EPT_VIOLATION
WORKING: Final = (VMCALL, EPT_VIOLATION)
"""Exits that take the host time, by the clock."""
FAULTING: Final = (EPT_VIOLATION, IO, ExitReason.RDMSR, ExitReason.WRMSR)
"""Exits after which the guest may get an exception."""


class Exits(Oracle):
    """An exit changes what its reason says, of its own vCPU."""

    name = "exits"
    shadowed = True
    rules: ClassVar[Rules] = {
        "registers": "an exit leaves its vCPU's registers as they were, but for what its reason changes, and to what",
        "fault": "an access that stage 2 refuses is emulated, or gives the guest #GP(0), as the contract says",
        "device": "a register that a guest writes to a device of its own gets that value, and the others keep theirs",
        "dma": "a virtio device touches what its queues name, each buffer in its direction, and no byte more",
        "model": "what the hypervisor keeps for its device models changes as in the device, for who uses it",
        "ring": "a write that is queued is put where the ring's indices say, if they make sense, and read once",
        "others": "an exit leaves the state of other vCPUs, serial ports and devices alone, but for those it is about",
        "control": "no exit changes what vCPUs run on: EPTP, VPID, intercepts; nor that the IOMMU is on",
        "call": "a VMCALL is one call, which ends, and no other exit is one; only a call copies guest memory",
        "string": "INS and OUTS move what their count and address say, at the rights of the guest's ring",
        "interrupt": "an APIC changes as its own domain's vCPUs have it changed, and one that halts wakes by it",
        "clock": "time never goes back, and where a clock is read too often, it goes on to the next window",
    }

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        super().__init__(scene, shadow)
        self._vcpus: Final = scene.machine.vcpus
        self._calls: Final = scene.calls
        self._clock: Final = scene.machine.clock
        self._iommu: Final = scene.machine.iommu
        self._intercepts: list[int] = []
        """Of each vCPU."""
        self._bitmap: list[tuple[int, bytes]] = []
        self._root = 0
        self._bystanders: Final = Bystanders(scene)
        self._emulation: Final = Emulation(scene, shadow)
        self._models: Final = DeviceModels(scene, all_models.SECOND_MODELS)
        self._ports: Final = PortIo(scene, self._models, self.report)
        self._registers: Final = Registers(scene, shadow, self._models, self._bystanders, self.report)

    def attach(self) -> None:
        """Everything is as it should be."""
        self._intercepts = [vcpu.vmcs.intercepts for vcpu in self._vcpus]
        self._bitmap = self._bitmaps()
        self._root = self._iommu.root_table
        self._registers.attach()
        self._models.attach()
        self._emulation.apics.attach()
        self._bystanders.attach([domain.devices.by_name["uart"] for domain in self.shadow.domains])

    def reset(self) -> None:
        """The machine is back at its snapshot."""
        self._registers.reset()
        self._models.reset()
        self._bystanders.reset()
        self._emulation.apics.reset()

    def audit(self) -> None:
        """Look at what nobody has looked at for a while: device models, APICs, the bitmaps of MSRs."""
        self._models.judge(self.report)
        for text in self._emulation.apics.differences():
            self.report("interrupt", text)
        if self._bitmaps() != self._bitmap:
            self.report("control", "which MSRs exit has changed")

    def _bitmaps(self) -> list[tuple[int, bytes]]:
        """Of each vCPU, where its bitmap of MSRs is, and what is in it."""
        places = [vcpu.vmcs.msr_bitmap for vcpu in self._vcpus]
        return [(place, self.scene.machine.memory.read(place, PAGE_SIZE)) for place in places]

    # Moments.

    def exit_started(self, vcpu: VCpu) -> None:
        """What comes first in an exit are the timers that have run out."""
        self._models.exit_started()

    def trap_started(self, vcpu: VCpu) -> None:
        """Remember what the guest's device or serial port is like."""
        self._calls.worked = True
        self._emulation.started(vcpu)
        reason = vcpu.vmcs.reason
        if reason is EPT_VIOLATION:
            self._registers.started(vcpu)
        elif reason is IO:
            self._ports.started()
            self._bystanders.ports = True

    def dma_or_foreign_access(self, initiator: object, hpa: int, size: int, access: int) -> None:
        """A device reads or writes."""
        self._registers.reached(initiator, hpa, size, access)

    def call_started(self, vcpu: VCpu, declaration: Any, args: Any) -> None:
        """CallStack that set a device to work, or reset it, name it."""
        if args is not None and declaration.name.startswith("device."):
            number = getattr(args, "device", None)
            if number is not None:
                self._bystanders.devices.add(number)

    def exit_finished(self, vcpu: VCpu) -> None:
        """Compare with what the guest enters again with."""
        vmcs = vcpu.vmcs
        calls = self._calls
        expected = calls.left
        if self._emulation.apics.touched:
            self._emulation.apics.tick(calls.cycles)
        reason = vmcs.reason
        if reason is VMCALL:
            if calls.idle.begun != 1 or calls.current is not calls.idle:
                self._miscalled(f"{calls.idle.begun} calls in one VMCALL")
            status, expected[RDX] = self._calls.ended
            expected[RAX] = status & U64
            expected[RIP] = (expected[RIP] + vmcs.length) & U64
        elif reason is EPT_VIOLATION:
            self._registers.expect(vcpu, expected)
        elif reason is not TRIPLE_FAULT:
            self._expect_instruction(vcpu, expected)
        if vmcs.saved != expected:
            self._differs(vcpu, expected)
        if vcpu.pending_fault is not None and reason not in FAULTING:
            self.report("fault", f"{reason.name} gives the guest {vcpu.pending_fault}")
        if self._emulation.apics.touched:
            for text in self._emulation.apics.differences():
                self.report("interrupt", text)
        idle = calls.idle
        if idle.reads or idle.writes or idle.touched or calls.copying is not None:
            self._miscalled(f"guest memory is copied in {reason.name}, outside of a call")
        working = reason in WORKING or (reason is IO and vmcs.string)
        end = calls.cycles if working else self._emulation.ends_at(vcpu)
        if self._clock.cycles < end or (self._clock.cycles > end and not working):
            self.report("clock", f"the exit began at {calls.cycles} cycles and ends at {self._clock.cycles}")
        if not self._iommu.enabled or self._iommu.root_table != self._root:
            self.report("control", f"the IOMMU is {'on' if self._iommu.enabled else 'off'} after {reason.name}")
        if vcpu.vmcs.intercepts != self._intercepts[vcpu.id]:
            self.report("control", f"{reason.name} changes which instructions of dom{vcpu.domain} exit")

    def trap_finished(self, vcpu: VCpu) -> None:
        """Only a VMCALL is a call."""
        self._registers.finished()
        if self._calls.idle.begun:
            self._miscalled(f"{self._calls.idle.begun} calls in an exit for {vcpu.vmcs.reason.name}")

    def op_finished(self) -> None:
        """Compare everything that this op was not about with what it was before; not worth it if it did nothing."""
        calls = self._calls
        if calls.worked:
            calls.worked = False
            for rule, text in self._bystanders.changes(calls.acting):
                self.report(rule, text)
        else:
            self._bystanders.acted(calls.acting)

    def _miscalled(self, text: str) -> None:
        """Something is wrong with which calls there were; for the next exit, none was."""
        self._calls.abandon()
        self.report("call", text)

    # What is expected.

    def _differs(self, vcpu: VCpu, expected: list[Any]) -> None:
        for place, (now, then) in enumerate(zip(vcpu.vmcs.saved, expected, strict=True)):
            if now != then:
                name = Reg(place).name if place < REGISTERS else Saved(place).name
                self.report("registers", f"{vcpu.vmcs.reason.name} leaves {name} at {now}, where it should be {then}")
                return

    def _expect_instruction(self, vcpu: VCpu, expected: list[Any]) -> None:
        """An instruction that the hypervisor carries out in the guest's place, and steps over, or refuses."""
        vmcs = vcpu.vmcs
        reason = vmcs.reason
        emulation = self._emulation
        if reason is IO:
            self._ports.expect(vcpu, expected)
            if vmcs.string:
                return
        done = emulation.expect(vcpu, expected)
        if done:
            expected[RIP] = (expected[RIP] + vmcs.length) & U64
        fault = vcpu.pending_fault
        if reason in FAULTING and (fault is not None if done else not _is_gp(fault)):
            self.report("fault", f"{reason.name} of {vmcs.leaf:#x} gives the guest {fault}")
        if vmcs.tsc_offset != emulation.offset(vcpu):
            self.report(
                "control", f"the time-stamp counter of a vCPU of dom{vcpu.domain} is {vmcs.tsc_offset:#x} ahead"
            )


def _is_gp(fault: GuestFault | None) -> bool:
    """Whether the guest gets #GP(0)."""
    return fault is not None and fault.vector == Vector.GP and not fault.error
