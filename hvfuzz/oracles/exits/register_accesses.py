"""Checks register accesses to devices and device models, and the device activity that they start.

Second models give the expected state: `functions` for PCI functions, `models` for device models, `coalesced_ring` for
queued writes.
Helper of the oracle `exits`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hvfuzz.abi.boot import DEVICES, MMIO_BASE, MMIO_SIZE
from hvfuzz.machine.addresses import SIZE_MASK, U64, WRITE
from hvfuzz.machine.cpu.registers import RAX, RFLAGS, RIP
from hvfuzz.machine.mmu.ept import Qualification
from hvfuzz.machine.mmu.paging import RFLAGS_RF
from hvfuzz.oracles.exits import coalesced_ring
from hvfuzz.oracles.exits.emulation import refusal
from hvfuzz.oracles.exits.models.coalesced import QueueWindow
from hvfuzz.oracles.shadow.guest_walk import leads

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.exits.functions.device_activity import DeviceActivity
    from hvfuzz.oracles.exits.functions.second_function import SecondFunction
    from hvfuzz.oracles.exits.model_comparison import DeviceModels
    from hvfuzz.oracles.exits.models.second_model import SecondModel
    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

FINAL: Final = int(Qualification.FINAL)


class Registers:
    """Follows the register accesses on one machine; `report` takes a rule and a message."""

    __slots__ = ("_activity", "_calls", "_function", "_models", "_report", "_scene", "_shadow")

    def __init__(
        self,
        scene: Scene,
        shadow: PageTableShadow,
        models: DeviceModels,
        activity: DeviceActivity,
        report: Callable[[str, str], None],
    ) -> None:
        self._scene: Final = scene
        self._shadow: Final = shadow
        self._calls: Final = scene.calls
        self._models: Final = models
        self._activity: Final = activity
        self._report: Final = report
        self._function: SecondFunction | None = None
        """The function of the domain whose registers the guest accesses in this exit."""

    def reset(self) -> None:
        """Forget the last access."""
        self._function = None

    def started(self, vcpu: VCpu) -> None:
        """An exit for an EPT violation begins: let the second model do what a write to its registers asks for."""
        fields = self._calls.exit
        number = (fields.gpa - MMIO_BASE) // MMIO_SIZE
        self._function = None
        if 0 <= number < DEVICES and fields.width and fields.qualification & FINAL:
            function = self._activity.bus.functions[number]
            if self._shadow.device_domain(function.bdf) == vcpu.domain:
                self._function = function
                if fields.write:
                    offset, value = fields.operand & MMIO_SIZE - 1, self._calls.left[RAX] & SIZE_MASK[fields.width]
                    self._activity.begin(function, partial(function.write, offset, fields.width, value))

    def expect(self, vcpu: VCpu, expected: list[Any]) -> None:
        """Apply the access to `expected` if it is to a device of the domain; otherwise expect an exception."""
        fields = self._calls.exit
        model = self._models.at_page(vcpu.domain, (fields.gpa - MMIO_BASE) // MMIO_SIZE)
        function = self._function
        emulated = function is not None or (model is not None and fields.width and fields.qualification & FINAL)
        offset = fields.operand & MMIO_SIZE - 1
        fault = vcpu.pending_fault
        if emulated:
            expected[RIP] = (expected[RIP] + fields.length) & U64
            expected[RFLAGS] &= ~RFLAGS_RF  # The access is complete (SDM Vol. 3A, 17.3.1.1).
            if fault is not None:
                self._report("fault", f"an access to dom{vcpu.domain}'s own device injects {fault}")
            if model is not None:
                self._expect_model(vcpu, model, expected)
            elif function is not None and not fields.write:
                expected[RAX] = function.read(offset, fields.width)
        elif (fault.vector if fault is not None else -1) != refusal(fields) or (fault is not None and fault.error):
            self._report("fault", f"an access to gpa {fields.gpa:#x} of dom{vcpu.domain} injects {fault}")
        self._activity.end("device", self.access(vcpu))

    def access(self, vcpu: VCpu) -> str:
        """The access of this exit in words, for messages."""
        fields = self._calls.exit
        model = self._models.at_page(vcpu.domain, (fields.gpa - MMIO_BASE) // MMIO_SIZE)
        subject = self._function or model
        place = f"gpa {fields.gpa:#x}" if subject is None else f"{fields.operand & MMIO_SIZE - 1:#x} of {subject.name}"
        return f"dom{vcpu.domain} {'writes' if fields.write else 'reads'} {fields.width} bytes at {place}"

    def _expect_model(self, vcpu: VCpu, model: SecondModel, expected: list[Any]) -> None:
        """Apply a register access to a device model of the domain."""
        fields = self._calls.exit
        offset, stored = fields.operand & MMIO_SIZE - 1, expected[RAX]
        value = self._models.mmio(model, offset, fields.width, fields.write, stored)
        if isinstance(model, QueueWindow):
            self._judge_queue(vcpu, model, offset, stored & SIZE_MASK[fields.width])
        if not fields.write:
            expected[RAX] = value
        self._models.judge(self._report)

    def _judge_queue(self, vcpu: VCpu, window: QueueWindow, offset: int, value: int) -> None:
        """Check the copies from and to the ring by an access to the coalesced MMIO window.

        A write that the ring does not take is one to the window's registers, which are compared after this.
        """
        calls = self._calls
        fields = calls.exit
        calls.guest_written()
        reads, writes = calls.idle.reads, calls.idle.writes
        calls.abandon()
        write = fields.write and not offset & fields.width - 1
        wanted = (
            coalesced_ring.writes(reads[0][1], fields.gpa & -MMIO_SIZE | offset, fields.width, value) if reads else ()
        )
        # Without a copy, nothing has changed the tables since the ring was looked for.
        if write and not reads and leads(self._scene.machine, vcpu, *coalesced_ring.HEADER, WRITE):
            self._report("ring", "a write to the window does not read the ring, which is writable")
        elif [(gva, len(data)) for gva, data in reads] not in ([], [coalesced_ring.HEADER] if write else []):
            self._report("ring", f"an access to the window reads {[(hex(gva), len(data)) for gva, data in reads]}")
        elif writes != wanted:
            self._report("ring", f"an access to the window stores {writes}, expected {wanted}")
        if write and not wanted:
            window.write(offset, fields.width, value)
