"""Checks register accesses to devices and device models, and the device activity that they start.

Second models give the expected state: `virtio_requests` for virtio devices, `models` for device models,
`coalesced_ring` for queued writes. A device may also write to the registers of others by DMA; the oracle `ownership`
checks that.
Helper of the oracle `exits`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from hvfuzz.abi.boot import DEVICES, DMA_ENGINES, MMIO_BASE, MMIO_SIZE
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, SIZE_MASK, U64, WRITE
from hvfuzz.machine.cpu.registers import RAX, RFLAGS, RIP
from hvfuzz.machine.devices.dma_engine import MAX_LENGTH, Register
from hvfuzz.machine.devices.pci_function import ACCESS_SIZES
from hvfuzz.machine.devices.register_windows import REGISTERS_BASE, REGISTERS_LIMIT
from hvfuzz.machine.devices.virtio.register_map import Register as Virtio
from hvfuzz.machine.devices.virtio.transport import VirtioDevice
from hvfuzz.machine.mmu.ept import Qualification
from hvfuzz.machine.mmu.paging import RFLAGS_RF
from hvfuzz.oracles.exits import coalesced_ring
from hvfuzz.oracles.exits.emulation import refusal
from hvfuzz.oracles.exits.models.coalesced import QueueWindow
from hvfuzz.oracles.exits.virtio_requests import Scope, written
from hvfuzz.oracles.shadow.guest_walk import leads

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.exits.bystanders import Bystanders
    from hvfuzz.oracles.exits.model_comparison import DeviceModels
    from hvfuzz.oracles.exits.models.second_model import SecondModel
    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

FINAL: Final = int(Qualification.FINAL)
PROGRAMMED: Final = 3
"""Number of the first registers of a DMA engine that keep the value written to them."""


class Registers:
    """Follows the register accesses on one machine; `report` takes a rule and a message."""

    __slots__ = (
        "_bystanders",
        "_calls",
        "_devices",
        "_models",
        "_peers",
        "_power_on",
        "_report",
        "_scene",
        "_scope",
        "_shadow",
    )

    def __init__(
        self,
        scene: Scene,
        shadow: PageTableShadow,
        models: DeviceModels,
        bystanders: Bystanders,
        report: Callable[[str, str], None],
    ) -> None:
        self._scene: Final = scene
        self._shadow: Final = shadow
        self._calls: Final = scene.calls
        self._models: Final = models
        self._bystanders: Final = bystanders
        self._report: Final = report
        self._devices: list[list[int]] = []
        """Registers of each device at the start of the exit."""
        self._power_on: list[list[int]] = []
        """Registers of each device after power-on."""
        self._peers: set[int] = set()
        """Numbers of the devices whose registers were written by DMA in this exit."""
        self._scope: Scope | None = None
        """Bytes that the notified device may access; None outside of a notification."""

    def attach(self) -> None:
        """Record the power-on registers."""
        self._power_on = [list(device.registers) for device in self._scene.machine.devices]

    def reset(self) -> None:
        """Forget the current exit."""
        self._scope = None
        self._peers.clear()

    def started(self, vcpu: VCpu) -> None:
        """Record the device registers as an exit for an EPT violation begins."""
        self._peers.clear()
        self._devices = [list(device.registers) for device in self._scene.machine.devices]
        number = (vcpu.vmcs.gpa - MMIO_BASE) // MMIO_SIZE
        self._bystanders.devices.add(number)
        if DMA_ENGINES <= number < DEVICES and vcpu.vmcs.operand & MMIO_SIZE - 8 == Virtio.NOTIFY:
            self._scope = Scope(self._scene, self._shadow, vcpu.domain, self._devices[number])

    def finished(self) -> None:
        """End the exit, and with it any notification."""
        self._scope = None

    def reached(self, initiator: object, hpa: int, size: int, access: int) -> None:
        """Check a memory access by a device: a virtio device may access only what its notified queues name."""
        if hpa >= REGISTERS_BASE:
            if access == WRITE and hpa < REGISTERS_LIMIT:
                number = hpa - REGISTERS_BASE >> PAGE_SHIFT
                self._peers.add(number)
                self._bystanders.devices.add(number)
        elif isinstance(initiator, VirtioDevice) and not self._may_reach(initiator, hpa, size, access):
            way = "writes" if access & WRITE else "reads"
            text = f"{initiator.name} {way} {size} bytes at {hpa & PAGE_MASK:#x}"
            self._report("dma", f"{text} of {self._scene.describe(hpa >> PAGE_SHIFT)}")

    def _may_reach(self, device: VirtioDevice, hpa: int, size: int, access: int) -> bool:
        """Whether a virtio device may access these bytes. Always true if its registers were written by DMA."""
        if self._scene.machine.devices.index(device) in self._peers:
            return True
        return self._scope is not None and self._scope.allows(hpa, size, access)

    def expect(self, vcpu: VCpu, expected: list[Any]) -> None:
        """Apply the access to `expected` if it is to a device of the domain; otherwise expect an exception."""
        vmcs = vcpu.vmcs
        machine = self._scene.machine
        number = (vmcs.gpa - MMIO_BASE) // MMIO_SIZE
        device = machine.devices[number] if 0 <= number < DEVICES else None
        model = self._models.at_page(vcpu.domain, number)
        mine = model is not None or (device is not None and self._shadow.device_domain(device.bdf) == vcpu.domain)
        emulated = mine and vmcs.width and vmcs.qualification & FINAL
        fault = vcpu.pending_fault
        if emulated:
            expected[RIP] = (expected[RIP] + vmcs.length) & U64
            expected[RFLAGS] &= ~RFLAGS_RF  # The access is complete (SDM Vol. 3A, 17.3.1.1).
            if model is not None:
                self._expect_model(vcpu, model, expected)
            elif device is not None and not vmcs.write:
                offset = vmcs.operand & MMIO_SIZE - 1
                if number < DMA_ENGINES:
                    expected[RAX] = _read(self._devices[number], offset, vmcs.width)
                else:
                    # Reading a register changes nothing, so it can be read again.
                    expected[RAX] = device.mmio_read(offset, vmcs.width)
                if device.registers != self._devices[number]:
                    self._report("device", f"a load by dom{vcpu.domain} at {offset:#x} changes {device.name}")
            if fault is not None:
                self._report("fault", f"an access to dom{vcpu.domain}'s own device injects {fault}")
            elif vmcs.write and model is None:
                self._judge_registers(vcpu, number)
        elif (fault.vector if fault is not None else -1) != refusal(vcpu) or (fault is not None and fault.error):
            self._report("fault", f"an access to gpa {vmcs.gpa:#x} of dom{vcpu.domain} injects {fault}")
        for other_number, (other, before) in enumerate(zip(machine.devices, self._devices, strict=True)):
            named = (emulated and other is device) or other_number in self._peers
            if not named and other.registers != before:
                self._report("others", f"an access of dom{vcpu.domain} changes registers of {other.name}")

    def _expect_model(self, vcpu: VCpu, model: SecondModel, expected: list[Any]) -> None:
        """Apply a register access to a device model of the domain."""
        vmcs = vcpu.vmcs
        offset = vmcs.operand & MMIO_SIZE - 1
        value = self._models.mmio(model, offset, vmcs.width, vmcs.write, expected[RAX])
        if isinstance(model, QueueWindow):
            self._judge_queue(vcpu, model, offset)
        if not vmcs.write:
            expected[RAX] = value
        self._models.judge(self._report)

    def _judge_queue(self, vcpu: VCpu, window: QueueWindow, offset: int) -> None:
        """Check the copies from and to the ring by an access to the coalesced MMIO window.

        A write that the ring does not take is one to the window's registers, which are compared after this.
        """
        vmcs, calls = vcpu.vmcs, self._calls
        calls.guest_written()
        reads, writes = calls.idle.reads, calls.idle.writes
        calls.abandon()
        write = vmcs.write and not offset & vmcs.width - 1
        value = vmcs.saved[RAX] & SIZE_MASK[vmcs.width]
        wanted = coalesced_ring.writes(reads[0][1], vmcs.gpa & -MMIO_SIZE | offset, vmcs.width, value) if reads else ()
        # Without a copy, nothing has changed the tables since the ring was looked for.
        if write and not reads and leads(self._scene.machine, vcpu, *coalesced_ring.HEADER, WRITE):
            self._report("ring", "a write to the window does not read the ring, which is writable")
        elif [(gva, len(data)) for gva, data in reads] not in ([], [coalesced_ring.HEADER] if write else []):
            self._report("ring", f"an access to the window reads {[(hex(gva), len(data)) for gva, data in reads]}")
        elif writes != wanted:
            self._report("ring", f"an access to the window stores {writes}, expected {wanted}")
        if write and not wanted:
            window.write(offset, vmcs.width, value)

    def _judge_registers(self, vcpu: VCpu, number: int) -> None:
        """Check the registers of the domain's device after a write."""
        vmcs = vcpu.vmcs
        before, registers = self._devices[number], self._scene.machine.devices[number].registers
        offset, value = vmcs.operand & MMIO_SIZE - 1, vmcs.saved[RAX]
        if number < DMA_ENGINES:
            wanted = _written(before, offset, vmcs.width, value)
        else:
            wanted = written(before, self._power_on[number], offset, vmcs.width, value)
        if any(want not in (None, word) for want, word in zip(wanted, registers, strict=False)):
            text = f"dom{vcpu.domain} writes {vmcs.width} bytes at {offset:#x} of device {number}"
            self._report("device", f"{text}: registers are {registers}, expected {wanted}")


def _read(registers: list[int], offset: int, width: int) -> int:
    """Expected value of a load from a DMA engine: its own registers, and zero beyond them and for other accesses."""
    if width not in ACCESS_SIZES or offset & width - 1 or offset >> 3 >= len(registers):
        return 0
    return registers[offset >> 3] >> ((offset & 7) << 3) & SIZE_MASK[width]


def _written(registers: list[int], offset: int, width: int, value: int) -> Sequence[int | None]:
    """Expected SRC, DST and LENGTH of a DMA engine after a write."""
    kept = registers[:PROGRAMMED]
    if width in ACCESS_SIZES and not offset & width - 1 and offset >> 3 < PROGRAMMED:
        shift = (offset & 7) << 3
        mask = SIZE_MASK[width]
        word = kept[offset >> 3] & ~(mask << shift) | (value & mask) << shift
        kept[offset >> 3] = min(word, MAX_LENGTH) if offset >> 3 == Register.LENGTH >> 3 else word
    return kept
