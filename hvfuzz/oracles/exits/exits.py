"""The oracle `exits`: a VM exit changes the state that its reason allows, and no other.

The contract's specification checks hypercalls. This oracle checks all other effects of exits: the registers with which
the guest resumes, and that unrelated state is unchanged, such as vCPUs that do not act in the op, serial ports, and
device registers. Helpers: `emulation` (instructions), `port_accesses` (port I/O), `register_accesses` (devices and
device models), `local_apics`, `bystanders` (unrelated state).
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Final

from hvfuzz.machine.addresses import PAGE_SIZE, U64
from hvfuzz.machine.cpu.faults import GuestFault, Vector
from hvfuzz.machine.cpu.registers import RAX, RDX, REGISTERS, RFLAGS, RIP, Reg, Saved
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.machine.mmu.paging import RFLAGS_RF
from hvfuzz.oracles.exits import booted_vcpus
from hvfuzz.oracles.exits.bystanders import Bystanders
from hvfuzz.oracles.exits.device_calls import USING, CopyCalls
from hvfuzz.oracles.exits.emulation import ACCESSES, Emulation
from hvfuzz.oracles.exits.functions.device_activity import DeviceActivity
from hvfuzz.oracles.exits.model_comparison import DeviceModels
from hvfuzz.oracles.exits.models import all_models
from hvfuzz.oracles.exits.port_accesses import PortIo
from hvfuzz.oracles.exits.register_accesses import Registers
from hvfuzz.oracles.framework.oracle import Oracle, Rules
from hvfuzz.oracles.scene.exit_fields import ExitFields, exit_fields, in_hex
from hvfuzz.oracles.scene.scene import Scene

if TYPE_CHECKING:
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

VMCALL: Final = ExitReason.VMCALL
TRIPLE_FAULT: Final = ExitReason.TRIPLE_FAULT
INVALID_GUEST_STATE: Final = ExitReason.INVALID_GUEST_STATE
IO: Final = ExitReason.IO
EPT_VIOLATION: Final = ExitReason.EPT_VIOLATION
CALLED: Final = (VMCALL, EPT_VIOLATION, TRIPLE_FAULT, INVALID_GUEST_STATE)
"""Exits that emulate no instruction by `emulation`."""
CONTROLS: Final = ("EPTP", "VPID", "the intercepts", "the address of the MSR bitmap")
_CONTROLS: Final = attrgetter("eptp", "vpid", "vmcs.intercepts", "vmcs.msr_bitmap")
WORKING: Final = (VMCALL, EPT_VIOLATION)
"""Exits whose handling advances the clock."""
FAULTING: Final = (EPT_VIOLATION, IO, ExitReason.RDMSR, ExitReason.WRMSR, ExitReason.CR_ACCESS)
"""Exits that may inject an exception."""


class Exits(Oracle):
    """A VM exit changes the state that its reason allows, and no other."""

    name = "exits"
    shadowed = True
    rules: ClassVar[Rules] = {
        "registers": "an exit changes only the registers that its reason allows, to the values of the contract",
        "entry": "VM entry accepts the guest state that an exit leaves",
        "fault": "an access that stage 2 refuses is emulated, or injects #GP(0), as the contract says",
        "device": "a write to registers, or a `device.*` call, leaves a PCI function in its documented state",
        "dma": "a PCI function makes the accesses to memory that its registers and queues ask for, each once",
        "answer": "what a PCI function writes to memory is what its registers and queues ask for",
        "model": "the state of a device model changes as in the real device, and only by accesses of its own domain",
        "ring": "a queued write goes to the slot that the ring's indices give, fetched once and if valid",
        "others": "an exit does not change serial ports and devices that it does not concern",
        "control": "no exit changes EPTP, VPID, intercepts, MSR bitmap, exit information or TSC, or disables the IOMMU",
        "call": "a VMCALL makes exactly one call, which completes; no other exit makes a call or copies guest memory",
        "string": "INS and OUTS move the elements that count and address give, with the privileges of the guest's ring",
        "interrupt": "an APIC changes only by its own domain's vCPUs, and a deliverable interrupt ends a HLT",
        "clock": "time never goes back; a clock read above the quota waits for the next window",
    }

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        super().__init__(scene, shadow)
        self._vcpus: Final = scene.machine.vcpus
        self._calls: Final = scene.calls
        self._clock: Final = scene.machine.clock
        self._iommu: Final = scene.machine.iommu
        self._controls: list[tuple[int, ...]] = []
        """What `_CONTROLS` gives for each vCPU, by id."""
        self._bitmap: list[tuple[int, bytes]] = []
        self._root = 0
        self._bystanders: Final = Bystanders()
        self._emulation: Final = Emulation(scene, shadow)
        self._models: Final = DeviceModels(scene, all_models.SECOND_MODELS)
        self._ports: Final = PortIo(scene, self._models, self.report)
        self._activity: Final = DeviceActivity(scene, self.report)
        self._registers: Final = Registers(scene, shadow, self._models, self._activity, self.report)
        self._copies: Final = CopyCalls(scene, self._activity)

    def attach(self) -> None:
        """Check the booted state against the world, and take it as the base."""
        for rule, text in booted_vcpus.faults(self.scene, self._emulation.apics):
            self.report(rule, text)
        self._controls = [_CONTROLS(vcpu) for vcpu in self._vcpus]
        self._bitmap = self._bitmaps()
        self._root = self._iommu.root_table
        self._activity.attach()
        self._models.attach(self.report)
        self._emulation.attach()
        self._bystanders.attach([domain.devices.by_name["uart"] for domain in self.shadow.domains])

    def reset(self) -> None:
        """Follow the machine's reset to its snapshot."""
        self._activity.reset()
        self._copies.reset()
        self._registers.reset()
        self._ports.reset()
        self._models.reset()
        self._bystanders.reset()
        self._emulation.reset()

    def audit(self) -> None:
        """Check state that is not compared at every exit: device models, APICs, MSR bitmaps."""
        self._models.judge(self.report)
        self._activity.compare("device", "at the end")
        self._judge_apics()
        for vcpu in self._emulation.wrong_offsets():
            self._misplaced(vcpu)
        if self._bitmaps() != self._bitmap:
            self.report("control", "an MSR bitmap changed")

    def _bitmaps(self) -> list[tuple[int, bytes]]:
        """(address, contents) of the MSR bitmap of each vCPU."""
        places = [vcpu.vmcs.msr_bitmap for vcpu in self._vcpus]
        return [(place, self.scene.machine.memory.read(place, PAGE_SIZE)) for place in places]

    # Events.

    def exit_started(self, vcpu: VCpu) -> None:
        """Expire timers first, as the hypervisor does."""
        self._models.exit_started()

    def trap_started(self, vcpu: VCpu) -> None:
        """Record the state of the device or serial port that the guest accesses."""
        self._calls.worked = True
        self._emulation.started(vcpu)
        reason = self._calls.exit.reason
        if reason is EPT_VIOLATION:
            self._registers.started(vcpu)
        elif reason is IO:
            self._ports.started()
            self._bystanders.ports = True

    def device_started(self, number: int) -> None:
        """Let the second model act, too."""
        self._activity.woken(number)

    def device_finished(self, number: int) -> None:
        """Check what the device did."""
        self._activity.rested("when it acted by itself")

    def dma_or_foreign_access(self, initiator: object, hpa: int, size: int, access: int) -> None:
        """Check a memory access by a device."""
        if type(initiator) is not VCpu:
            self._activity.accessed(initiator, hpa, size, access)

    def step(self, step: Any) -> None:
        """Let the second models do what a `device.*` call makes of a device."""
        declaration = self._calls.current.declaration
        if declaration is not None and declaration.name in USING:
            self._copies.step()

    def stepped(self, step: Any) -> None:
        """Check what the device did."""
        if self._copies.active:
            self._copies.stepped()

    def guest_copy(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        """Check the rights of a copy that belongs to an instruction of the guest."""
        if self._calls.exit.reason is IO:
            self._ports.copied(vcpu, gva, hpa)

    def call_started(self, vcpu: VCpu, declaration: Any, args: Any) -> None:
        """The APIC timers have advanced before the call: `sched.kick` tells whether one has ended a HLT."""
        apics = self._emulation.apics
        if apics.touched and apics.tick(self._calls.cycles):
            self._judge_apics()

    def exit_finished(self, vcpu: VCpu) -> None:
        """Compare the state with which the guest resumes to the expected one."""
        vmcs = vcpu.vmcs
        calls = self._calls
        expected, fields = calls.left, calls.exit
        if self._emulation.apics.touched:
            self._emulation.apics.tick(calls.cycles)
        reason = fields.reason
        if reason is VMCALL:
            if calls.idle.begun != 1 or calls.current is not calls.idle:
                self._miscalled(f"{calls.idle.begun} calls in one VMCALL")
            status, expected[RDX] = self._calls.ended
            expected[RAX] = status & U64
            expected[RIP] = (expected[RIP] + fields.length) & U64
        elif reason is EPT_VIOLATION:
            self._registers.expect(vcpu, expected)
        elif reason is INVALID_GUEST_STATE:
            self.report("entry", f"VM entry refuses the guest state of a vCPU of dom{vcpu.domain}")
        elif reason is not TRIPLE_FAULT:
            self._expect_instruction(vcpu, expected)
        if vcpu.pending_fault is not None and reason in FAULTING:
            # VM entry pushes RF as it is (SDM Vol. 3C, 27.6.1.1), and it is set in the frame of a fault.
            expected[RFLAGS] |= RFLAGS_RF
        if vmcs.saved != expected:
            self._differs(vcpu, expected)
        if vcpu.pending_fault is not None and reason not in FAULTING:
            self.report("fault", f"{reason.name} injects {vcpu.pending_fault}")
        if self._emulation.apics.touched:
            self._judge_apics()
        idle = calls.idle
        if idle.reads or idle.writes or idle.touched or calls.copying is not None:
            self._miscalled(f"guest memory copied in {reason.name}, outside of a call")
        working = reason in WORKING or (reason is IO and fields.string)
        end = calls.read_at if working else self._emulation.ends_at()
        if self._clock.cycles < end or (self._clock.cycles > end and not working):
            self.report("clock", f"the exit began at {calls.cycles} cycles and ends at {self._clock.cycles}")
        if not self._iommu.enabled or self._iommu.root_table != self._root:
            self.report("control", f"the IOMMU is {'on' if self._iommu.enabled else 'off'} after {reason.name}")
        if _CONTROLS(vcpu) != self._controls[vcpu.id] or exit_fields(vmcs) != fields:
            for text in self._changed_controls(vcpu):
                self.report("control", text)
        if reason in CALLED and not self._emulation.keeps_offset(vcpu):
            self._misplaced(vcpu)

    def trap_finished(self, vcpu: VCpu) -> None:
        """Report calls made in an exit other than VMCALL."""
        if self._calls.idle.begun:
            self._miscalled(f"{self._calls.idle.begun} calls in an exit for {self._calls.exit.reason.name}")

    def op_finished(self) -> None:
        """Compare unrelated state with that before the op, unless the hypervisor did nothing in the op."""
        calls = self._calls
        if calls.worked:
            calls.worked = False
            if self._bystanders.accessed():
                self.report("others", "a serial port was accessed in an op without port I/O")
            self._activity.compare("others", "after an op that did not use it")
        else:
            self._bystanders.ports = False

    def _judge_apics(self) -> None:
        """Report every wrong APIC."""
        for text in self._emulation.apics.differences():
            self.report("interrupt", text)

    def _misplaced(self, vcpu: VCpu) -> None:
        """Report the TSC offset of `vcpu`."""
        self.report("control", f"the TSC offset of a vCPU of dom{vcpu.domain} is {vcpu.vmcs.tsc_offset:#x}")

    def _changed_controls(self, vcpu: VCpu) -> Iterator[str]:
        """Each control of `vcpu`, and each field that the exit has set, that the exit has changed."""
        fields, name = self._calls.exit, self._calls.exit.reason.name
        whose = f"of vCPU {vcpu.index} of dom{vcpu.domain}"
        for what, now, then in zip(CONTROLS, _CONTROLS(vcpu), self._controls[vcpu.id], strict=True):
            if now != then:
                yield f"{name} changes {what} {whose} from {then:#x} to {now:#x}"
        for what, now, then in zip(ExitFields._fields, exit_fields(vcpu.vmcs), fields, strict=True):
            if now != then:
                yield f"{name} changes the exit information {what} {whose} from {then:#x} to {now:#x}"

    def _miscalled(self, text: str) -> None:
        """Report `text` under `call`, and discard the recorded calls, so that the next exit starts afresh."""
        self._calls.abandon()
        self.report("call", text)

    # Expected state.

    def _differs(self, vcpu: VCpu, expected: list[Any]) -> None:
        for place, (now, then) in enumerate(zip(vcpu.vmcs.saved, expected, strict=True)):
            if now != then:
                name = Reg(place).name if place < REGISTERS else Saved(place).name
                reason = self._calls.exit.reason
                what = self._registers.access(vcpu) if reason is EPT_VIOLATION else reason.name
                self.report("registers", f"{what}: {name} is {in_hex(now)}, expected {in_hex(then)}")
                return

    def _expect_instruction(self, vcpu: VCpu, expected: list[Any]) -> None:
        """Check an emulated instruction: its registers, and that RIP advances or an exception is injected."""
        fields = self._calls.exit
        reason = fields.reason
        emulation = self._emulation
        if reason is IO:
            self._ports.expect(vcpu, expected)
            if fields.string:
                return
        done = emulation.expect(vcpu, expected)
        if done:
            expected[RIP] = (expected[RIP] + fields.length) & U64
        fault = vcpu.pending_fault
        if reason in FAULTING and (fault is not None if done else not _is_gp(fault)):
            subject = f" of {fields.leaf:#x}" if reason in ACCESSES else ""
            self.report("fault", f"{reason.name}{subject} injects {fault}")
        if emulation.wrong_offset(vcpu):
            self._misplaced(vcpu)


def _is_gp(fault: GuestFault | None) -> bool:
    """Whether `fault` is #GP(0)."""
    return fault is not None and fault.vector == Vector.GP and not fault.error
