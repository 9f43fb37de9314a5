"""What a VM exit may do to vCPUs and devices: its own vCPU's registers as the reason says, and nobody else's.

Hypercalls are judged by the specification; this is the rest of the way: what the guest finds in its registers
afterwards, whatever it left for, and that an exit of one domain leaves the vCPUs, serial ports and device registers
of the others alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from hvfuzz.abi.boot import CPUID_SIGNATURE, CPUID_VERSION, DEVICES, MMIO_BASE, MMIO_SIZE, UART_PORT, UART_PORTS
from hvfuzz.abi.versions import CURRENT
from hvfuzz.hypervisor.exits import SIGNATURE
from hvfuzz.machine.addresses import U64
from hvfuzz.machine.devices.uart import Uart
from hvfuzz.machine.ept import Qualification
from hvfuzz.machine.faults import Vector
from hvfuzz.machine.vmcs import RAX, RCX, REGISTERS, RIP, ExitReason, Reg, Saved
from hvfuzz.oracles.oracle import Oracle, Rules, Scene

if TYPE_CHECKING:
    from hvfuzz.machine.cpu import VCpu
    from hvfuzz.oracles.reachability import Reachability

RDX: Final = int(Reg.RDX)
RBX: Final = int(Reg.RBX)
MSRS: Final = int(Saved.MSRS)
FINAL: Final = int(Qualification.FINAL)
VMCALL: Final = ExitReason.VMCALL
IO: Final = ExitReason.IO
EPT_VIOLATION: Final = ExitReason.EPT_VIOLATION


class Exits(Oracle):
    """An exit changes what its reason says, of its own vCPU."""

    name = "exits"
    shadowed = True
    rules: ClassVar[Rules] = {
        "registers": "an exit leaves its vCPU's registers as they were, but for what its reason changes, and to what",
        "fault": "an access that stage 2 refuses is emulated, or gives the guest #GP(0), as the contract says",
        "others": "an exit leaves the state of other vCPUs, other domains' serial ports and other devices alone",
    }

    def __init__(self, scene: Scene, shadow: Reachability) -> None:
        super().__init__(scene, shadow)
        self._vcpus: Final = scene.machine.vcpus
        self._calls: Final = scene.calls
        self._devices: list[tuple[Any, ...]] = []
        self._uarts: list[Uart] = []

    # Moments.

    def trap_started(self, vcpu: VCpu) -> None:
        """Remember what the guest's device or serial port is like."""
        reason = vcpu.vmcs.reason
        if reason is EPT_VIOLATION:
            self._devices = [_registers(device) for device in self.scene.machine.devices]
        elif reason is IO:
            self._uarts = [_copy(domain.uart) for domain in self.shadow.domains]

    def exit_finished(self, vcpu: VCpu) -> None:
        """Compare with what the guest enters again with."""
        vmcs = vcpu.vmcs
        expected = self._calls.left
        # The exit copied the MSRs, and the handler could have changed that copy in place.
        expected[MSRS] = vcpu.msrs
        reason = vmcs.reason
        if reason is VMCALL:
            status, expected[RDX] = self._calls.ended
            expected[RAX] = status & U64
            expected[RIP] = (expected[RIP] + vmcs.length) & U64
        elif reason is EPT_VIOLATION:
            self._expect_access(vcpu, expected)
        else:
            expected[RIP] = (expected[RIP] + vmcs.length) & U64
            if reason is IO:
                self._expect_port(vcpu, expected)
            elif reason is ExitReason.CPUID:
                expected[RAX], expected[RBX], expected[RCX], expected[RDX] = _cpuid(vmcs.leaf)
        if vmcs.saved != expected:
            self._differs(vcpu, expected)
        for other in self._vcpus:
            if other.pending_fault is not None and other is not vcpu:
                self.report("others", f"an exit of dom{vcpu.domain} makes a fault pending for dom{other.domain}")

    # What is expected.

    def _differs(self, vcpu: VCpu, expected: list[Any]) -> None:
        for place, (now, then) in enumerate(zip(vcpu.vmcs.saved, expected, strict=True)):
            if now != then:
                name = Reg(place).name if place < REGISTERS else Saved(place).name
                self.report("registers", f"{vcpu.vmcs.reason.name} leaves {name} at {now}, where it should be {then}")
                return

    def _expect_access(self, vcpu: VCpu, expected: list[Any]) -> None:
        """A register access of a device of the domain's own, or #GP(0) and no step further."""
        vmcs = vcpu.vmcs
        machine = self.scene.machine
        number = (vmcs.gpa - MMIO_BASE) // MMIO_SIZE
        device = machine.devices[number] if 0 <= number < DEVICES else None
        mine = device is not None and self.shadow.device_domain(device.bdf) == vcpu.domain
        emulated = mine and vmcs.width and vmcs.qualification & FINAL
        fault = vcpu.pending_fault
        if emulated and device is not None:
            expected[RIP] = (expected[RIP] + vmcs.length) & U64
            if not vmcs.write:
                # Reading a register changes nothing, so it can be read again.
                expected[RAX] = device.mmio_read(vmcs.operand & MMIO_SIZE - 1, vmcs.width)
            if fault is not None:
                self.report("fault", f"an access to dom{vcpu.domain}'s own device gives {fault}")
        elif fault is None or fault.vector != Vector.GP or fault.error:
            self.report("fault", f"an access to gpa {vmcs.gpa:#x} of dom{vcpu.domain} gives {fault}")
        for other, before in zip(machine.devices, self._devices, strict=True):
            if not (emulated and other is device) and _registers(other) != before:
                self.report("others", f"an access of dom{vcpu.domain} changes registers of {other.name}")

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
        if not vmcs.write:
            expected[RAX] = value if width >= 4 else expected[RAX] & ~ones | value
        for domain, uart in zip(self.shadow.domains, self._uarts, strict=True):
            if _state(domain.uart) != _state(uart):
                self.report("others", f"port I/O of dom{vcpu.domain} leaves dom{domain.id}'s serial port wrong")


def _cpuid(leaf: int) -> tuple[int, int, int, int]:
    """EAX, EBX, ECX, EDX of a leaf by the contract."""
    if leaf == CPUID_SIGNATURE:
        words = (int.from_bytes(SIGNATURE[at : at + 4], "little") for at in (0, 4, 8))
        return (CPUID_VERSION, *words)  # type: ignore[return-value]
    return (CURRENT, 0, 0, 0) if leaf == CPUID_VERSION else (0, 0, 0, 0)


def _registers(device: Any) -> tuple[Any, ...]:
    return tuple(device.registers)


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
