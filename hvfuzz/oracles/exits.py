"""What a VM exit may do to vCPUs and devices: its own vCPU's registers as the reason says, and nobody else's.

Hypercalls are judged by the specification; this is the rest of the way: what the guest finds in its registers
afterwards, whatever it left for, and that an exit leaves alone what it has no business with: other vCPUs (which in an
op only change if they act in it), serial ports, and the registers of devices that it was not told to use. Devices and
device models are modelled a second time for that: in `virtio`, `models` and `queue`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from hvfuzz.abi.boot import (
    COALESCED,
    DEVICES,
    DMA_ENGINES,
    FIFO_PORT,
    FIFO_PORTS,
    IOAPIC,
    MMIO_BASE,
    MMIO_SIZE,
    TIMER,
    UART_PORT,
    UART_PORTS,
)
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, READ, U64, WRITE
from hvfuzz.machine.devices.device import ACCESS_SIZES
from hvfuzz.machine.devices.dma_engine import MAX_LENGTH, Register
from hvfuzz.machine.devices.uart import Uart
from hvfuzz.machine.devices.virtio import Register as Virtio
from hvfuzz.machine.devices.virtio import VirtioDevice
from hvfuzz.machine.devices.windows import REGISTERS_BASE, REGISTERS_LIMIT
from hvfuzz.machine.ept import Qualification
from hvfuzz.machine.faults import GuestFault, Vector
from hvfuzz.machine.vmcs import RAX, RCX, RDX, REGISTERS, RIP, ExitReason, Reg, Saved
from hvfuzz.oracles import queue, string_io
from hvfuzz.oracles.bystanders import Bystanders
from hvfuzz.oracles.emulation import Emulation, refusal
from hvfuzz.oracles.models import Floppy, Models
from hvfuzz.oracles.oracle import Oracle, Rules, Scene
from hvfuzz.oracles.virtio import Scope, written
from hvfuzz.oracles.walk import guest_virtual

if TYPE_CHECKING:
    from hvfuzz.machine.cpu import VCpu
    from hvfuzz.oracles.reachability import Reachability

FINAL: Final = int(Qualification.FINAL)
VMCALL: Final = ExitReason.VMCALL
TRIPLE_FAULT: Final = ExitReason.TRIPLE_FAULT
IO: Final = ExitReason.IO
EPT_VIOLATION: Final = ExitReason.EPT_VIOLATION
QUEUED: Final = (MMIO_BASE >> PAGE_SHIFT) + COALESCED
WORKING: Final = (VMCALL, EPT_VIOLATION)
"""Exits that take the host time, by the clock."""
FAULTING: Final = (EPT_VIOLATION, IO, ExitReason.RDMSR, ExitReason.WRMSR)
"""Exits after which the guest may get an exception."""
PROGRAMMED: Final = 3
"""Registers of a DMA engine, from the first on, that hold what was written to them."""


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

    def __init__(self, scene: Scene, shadow: Reachability) -> None:
        super().__init__(scene, shadow)
        self._vcpus: Final = scene.machine.vcpus
        self._calls: Final = scene.calls
        self._clock: Final = scene.machine.clock
        self._iommu: Final = scene.machine.iommu
        self._devices: list[list[int]] = []
        self._peers: set[int] = set()
        """Devices whose registers were written by DMA in this exit, by number."""
        self._uarts: list[Uart] = []
        self._intercepts: list[int] = []
        """Of each vCPU."""
        self._bitmap: list[tuple[int, bytes]] = []
        self._root = 0
        self._bystanders: Final = Bystanders(scene)
        self._emulation: Final = Emulation(scene, shadow)
        self._models: Final = Models(scene)
        self._scope: Scope | None = None
        """What the device may touch that is being notified."""
        self._power_on: list[list[int]] = []
        """Registers of each device."""

    def attach(self) -> None:
        """Everything is as it should be."""
        self._intercepts = [vcpu.vmcs.intercepts for vcpu in self._vcpus]
        self._bitmap = self._bitmaps()
        self._root = self._iommu.root_table
        self._power_on = [list(device.registers) for device in self.scene.machine.devices]
        self._models.attach()
        self._emulation.apics.attach()
        self._bystanders.attach([domain.uart for domain in self.shadow.domains])

    def reset(self) -> None:
        """The machine is back at its snapshot."""
        self._scope = None
        self._models.reset()
        self._bystanders.reset()
        self._emulation.apics.reset()

    def audit(self) -> None:
        """Look at what nobody has looked at for a while: device models, APICs, the bitmaps of MSRs."""
        self._judge_models()
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
        self._peers.clear()
        reason = vcpu.vmcs.reason
        if reason is EPT_VIOLATION:
            self._devices = [list(device.registers) for device in self.scene.machine.devices]
            number = (vcpu.vmcs.gpa - MMIO_BASE) // MMIO_SIZE
            self._bystanders.devices.add(number)
            if DMA_ENGINES <= number < DEVICES and vcpu.vmcs.operand & MMIO_SIZE - 8 == Virtio.NOTIFY:
                self._scope = Scope(self.scene, self.shadow, vcpu.domain, self._devices[number])
        elif reason is IO:
            self._uarts = [_copy(domain.uart) for domain in self.shadow.domains]
            self._bystanders.ports = True

    def reached(self, initiator: object, hpa: int, size: int, access: int) -> None:
        """A device may write to another one's registers: whether it may do so to these, ownership says.

        A virtio device works only when it is notified. One that has its orders by DMA is not judged.
        """
        if hpa >= REGISTERS_BASE:
            if access == WRITE and hpa < REGISTERS_LIMIT:
                number = hpa - REGISTERS_BASE >> PAGE_SHIFT
                self._peers.add(number)
                self._bystanders.devices.add(number)
        elif isinstance(initiator, VirtioDevice) and not self._may_reach(initiator, hpa, size, access):
            way = "writes" if access & WRITE else "reads"
            text = f"{initiator.name} {way} {size} bytes at {hpa & PAGE_MASK:#x}"
            self.report("dma", f"{text} of {self.scene.describe(hpa >> PAGE_SHIFT)}")

    def _may_reach(self, device: VirtioDevice, hpa: int, size: int, access: int) -> bool:
        """Whether the orders of a virtio device name these bytes, as far as anybody can tell."""
        if self.scene.machine.devices.index(device) in self._peers:
            return True
        return self._scope is not None and self._scope.allows(hpa, size, access)

    def call_started(self, vcpu: VCpu, declaration: Any, args: Any) -> None:
        """Calls that set a device to work, or reset it, name it."""
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
            self._expect_access(vcpu, expected)
        elif reason is not TRIPLE_FAULT:
            self._expect_instruction(vcpu, expected)
        if vmcs.saved != expected:
            self._differs(vcpu, expected)
        if vcpu.pending_fault is not None and reason not in FAULTING:
            self.report("fault", f"{reason.name} gives the guest {vcpu.pending_fault}")
        if reason is EPT_VIOLATION and vmcs.gpa >> PAGE_SHIFT == QUEUED:
            self._judge_queue(vcpu)
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
        self._scope = None
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
            if vmcs.string:
                self._expect_string(vcpu, expected)
                return
            self._expect_port(vcpu, expected)
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

    def _expect_access(self, vcpu: VCpu, expected: list[Any]) -> None:
        """A register access of a device of the domain's own, or #GP(0) and no step further."""
        vmcs = vcpu.vmcs
        machine = self.scene.machine
        number = (vmcs.gpa - MMIO_BASE) // MMIO_SIZE
        device = machine.devices[number] if 0 <= number < DEVICES else None
        model = number in (IOAPIC, TIMER, COALESCED)
        mine = model or (device is not None and self.shadow.device_domain(device.bdf) == vcpu.domain)
        emulated = mine and vmcs.width and vmcs.qualification & FINAL
        fault = vcpu.pending_fault
        if emulated:
            expected[RIP] = (expected[RIP] + vmcs.length) & U64
            if model:
                self._expect_model(vcpu, number, expected)
            elif device is not None and not vmcs.write:
                # Reading a register changes nothing, so it can be read again.
                expected[RAX] = device.mmio_read(vmcs.operand & MMIO_SIZE - 1, vmcs.width)
            if fault is not None:
                self.report("fault", f"an access to dom{vcpu.domain}'s own device gives {fault}")
            elif vmcs.write and not model:
                self._judge_registers(vcpu, number)
        elif (fault.vector if fault is not None else -1) != refusal(vcpu) or (fault is not None and fault.error):
            self.report("fault", f"an access to gpa {vmcs.gpa:#x} of dom{vcpu.domain} gives {fault}")
        for other_number, (other, before) in enumerate(zip(machine.devices, self._devices, strict=True)):
            named = (emulated and other is device) or other_number in self._peers
            if not named and other.registers != before:
                self.report("others", f"an access of dom{vcpu.domain} changes registers of {other.name}")

    def _expect_model(self, vcpu: VCpu, page: int, expected: list[Any]) -> None:
        """A register access of the domain's own I/O APIC or timer."""
        vmcs = vcpu.vmcs
        offset = vmcs.operand & MMIO_SIZE - 1
        if page == COALESCED:
            expected[RAX] = expected[RAX] if vmcs.write else 0
            return
        value = self._models.mmio(page, vcpu.domain, offset, vmcs.width, vmcs.write, expected[RAX])
        if not vmcs.write:
            expected[RAX] = value
        self._judge_models()

    def _judge_queue(self, vcpu: VCpu) -> None:
        """What was copied from and to the ring, by an access to the window whose writes are queued."""
        vmcs, calls = vcpu.vmcs, self._calls
        if calls.copying is not None:
            calls.written()
        reads, writes = calls.idle.reads, calls.idle.writes
        calls.abandon()
        offset = vmcs.operand & MMIO_SIZE - 1
        queued = vmcs.write and vmcs.width and vmcs.qualification & FINAL and not offset & vmcs.width - 1
        value = vmcs.saved[RAX] & (1 << 8 * vmcs.width) - 1
        wanted = queue.writes(reads[0][1], vmcs.gpa & -MMIO_SIZE | offset, vmcs.width, value) if reads else ()
        memory = self.scene.machine.memory
        readable, writable = (guest_virtual(memory, vcpu, queue.RING, access) is not None for access in (READ, WRITE))
        if [(gva, len(data)) for gva, data in reads] != ([queue.HEADER] if queued and (reads or readable) else []):
            self.report("ring", f"a write that is queued reads {[(hex(gva), len(data)) for gva, data in reads]}")
        elif writes != wanted and (writable or writes != wanted[: len(writes)]):
            self.report("ring", f"a write that is queued writes {writes}, where it should write {wanted}")

    def _judge_models(self) -> None:
        wrong = self._models.differs()
        if wrong:
            self.report("model", wrong)

    def _judge_registers(self, vcpu: VCpu, number: int) -> None:
        """What a device of the domain's own has in its registers after a write."""
        vmcs = vcpu.vmcs
        before, registers = self._devices[number], self.scene.machine.devices[number].registers
        offset, value = vmcs.operand & MMIO_SIZE - 1, vmcs.saved[RAX]
        if number < DMA_ENGINES:
            wanted = _written(before, offset, vmcs.width, value)
        else:
            wanted = written(before, self._power_on[number], offset, vmcs.width, value)
        if any(want not in (None, word) for want, word in zip(wanted, registers, strict=False)):
            text = f"dom{vcpu.domain} writes {vmcs.width} bytes at {offset:#x} of device {number}"
            self.report("device", f"{text}: {registers}, not {wanted}")

    def _expect_string(self, vcpu: VCpu, expected: list[Any]) -> None:
        """INS or OUTS: the elements of a burst, copied from and to guest memory, which only a call does else."""
        vmcs = vcpu.vmcs
        device: Uart | Floppy | None = None
        offset = vmcs.port - UART_PORT
        if 0 <= offset < UART_PORTS:
            device = self._uarts[vcpu.domain]
        elif 0 <= vmcs.port - FIFO_PORT < FIFO_PORTS:
            device, offset = self._models.floppy(vcpu.domain), vmcs.port - FIFO_PORT
        wrong = string_io.judge(self.scene.machine, self._calls, vcpu, device, offset, expected)
        if wrong:
            self.report("string", f"{'OUTS' if vmcs.write else 'INS'}: {wrong}")
        self._calls.abandon()
        if not expected[RCX]:
            expected[RIP] = (expected[RIP] + vmcs.length) & U64
        self._judge_models()
        self._compare_uarts(vcpu)

    def _expect_port(self, vcpu: VCpu, expected: list[Any]) -> None:
        """The domain's own serial port does what the hardware does; where nothing answers, all ones."""
        vmcs = vcpu.vmcs
        offset, width = vmcs.port - UART_PORT, vmcs.width
        mine = self._uarts[vcpu.domain]
        ones = (1 << 8 * width) - 1
        value = ones
        if 0 <= offset < UART_PORTS:
            if vmcs.write:
                mine.port_write(offset, width, expected[RAX])
            else:
                value = mine.port_read(offset, width)
        elif 0 <= vmcs.port - FIFO_PORT < FIFO_PORTS:
            value = self._models.port(vcpu.domain, vmcs.port - FIFO_PORT, width, vmcs.write, expected[RAX])
            self._judge_models()
        if not vmcs.write:
            expected[RAX] = value if width >= 4 else expected[RAX] & ~ones | value
        self._compare_uarts(vcpu)

    def _compare_uarts(self, vcpu: VCpu) -> None:
        for domain, uart in zip(self.shadow.domains, self._uarts, strict=True):
            if _state(domain.uart) != _state(uart):
                self.report("others", f"port I/O of dom{vcpu.domain} leaves dom{domain.id}'s serial port wrong")


def _is_gp(fault: GuestFault | None) -> bool:
    """Whether the guest gets #GP(0)."""
    return fault is not None and fault.vector == Vector.GP and not fault.error


def _written(registers: list[int], offset: int, width: int, value: int) -> Sequence[int | None]:
    """The registers that only a write changes, after this one: source, target and length of a DMA engine."""
    kept = registers[:PROGRAMMED]
    if width in ACCESS_SIZES and not offset & width - 1 and offset >> 3 < PROGRAMMED:
        shift = (offset & 7) << 3
        mask = (1 << 8 * width) - 1
        word = kept[offset >> 3] & ~(mask << shift) | (value & mask) << shift
        kept[offset >> 3] = min(word, MAX_LENGTH) if offset >> 3 == Register.LENGTH >> 3 else word
    return kept


def _state(uart: Uart) -> tuple[Any, ...]:
    return tuple(
        bytes(value) if isinstance(value, bytearray) else value
        for value in (getattr(uart, name) for name in Uart.__slots__)
    )


def _copy(uart: Uart) -> Uart:
    """A serial port in the same state, that shares nothing with `uart`."""
    copy = Uart()
    for name in Uart.__slots__:
        value = getattr(uart, name)
        setattr(copy, name, value.copy() if hasattr(value, "copy") else value)
    return copy
