"""Checks port I/O (IN, OUT, INS, OUTS) against the second models of the domain's devices.

Helper of the oracle `exits`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from hvfuzz.abi.boot import UART_PORT, UART_PORTS
from hvfuzz.machine.addresses import SIZE_MASK, U64
from hvfuzz.machine.cpu.registers import RAX, RCX, RIP
from hvfuzz.oracles.exits import string_transfers
from hvfuzz.oracles.exits.string_transfers import Cached, cached

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.exits.model_comparison import DeviceModels
    from hvfuzz.oracles.scene.scene import Scene

MARGIN: Final = 16
"""Most entries of one cache that the lookup of an element makes."""

NOTHING: Final = Cached({}, {})


class PortIo:
    """Follows the port accesses on one machine; `report` takes a rule and a message."""

    __slots__ = ("_before", "_models", "_report", "_scene", "_wrong_page")

    def __init__(self, scene: Scene, models: DeviceModels, report: Callable[[str, str], None]) -> None:
        self._scene: Final = scene
        self._models: Final = models
        self._report: Final = report
        self._before = NOTHING
        """What was cached before the element was looked up, as far as it may have been evicted since."""
        self._wrong_page = False
        """Whether the burst has accessed a page that the guest's instruction may not access."""

    def reset(self) -> None:
        """Forget the last burst."""
        self._wrong_page = False

    def started(self) -> None:
        """Called when an exit for port I/O begins."""
        self._wrong_page = False
        if self._scene.calls.exit.string:
            self._before = cached(self._scene.machine.tlb)
        self._models.port_exit_started()

    def copied(self, vcpu: VCpu, gva: int, hpa: int) -> None:
        """Check the rights of a copy of an INS or OUTS, which is about to be made."""
        fields = self._scene.calls.exit
        if not fields.string:
            return
        if string_transfers.wrong_page(self._scene, vcpu, gva, hpa, self._before):
            self._wrong_page = True
        tlb = self._scene.machine.tlb
        if max(len(tlb.combined), len(tlb.structures.combined)) > tlb.capacity - MARGIN:
            self._before = cached(tlb)

    def expect(self, vcpu: VCpu, expected: list[Any]) -> None:
        """Apply the access to `expected`, the registers at the exit, and compare the device models."""
        fields = self._scene.calls.exit
        if fields.string:
            self._expect_string(vcpu, expected)
        else:
            self._expect_port(vcpu, expected)
        # A serial port has no host memory, and is the most frequent: skip the comparison of memory.
        if 0 <= fields.port - UART_PORT < UART_PORTS:
            self._models.judge_registers(self._report)
        else:
            self._models.judge(self._report)

    def _expect_string(self, vcpu: VCpu, expected: list[Any]) -> None:
        """Check the burst of an INS or OUTS, including its copies of guest memory."""
        calls = self._scene.calls
        fields = calls.exit
        device, offset = self._models.at_port(vcpu.domain, fields.port)
        wrong = string_transfers.judge(self._scene, vcpu, device, offset, expected)
        if self._wrong_page and not wrong:
            wrong = f"ring {vcpu.cpl} of dom{vcpu.domain} accesses a page that it may not access"
        if wrong:
            self._report("string", f"{'OUTS' if fields.write else 'INS'}: {wrong}")
        calls.abandon()
        self._before = NOTHING
        if not expected[RCX]:
            expected[RIP] = (expected[RIP] + fields.length) & U64

    def _expect_port(self, vcpu: VCpu, expected: list[Any]) -> None:
        """Apply IN or OUT of one element; a port without a device reads as ones."""
        fields = self._scene.calls.exit
        width = fields.width
        device, offset = self._models.at_port(vcpu.domain, fields.port)
        ones = SIZE_MASK[width]
        if fields.write:
            if device is not None:
                device.port_write(offset, width, expected[RAX])
            return
        value = ones if device is None else device.port_read(offset, width)
        expected[RAX] = value if width >= 4 else expected[RAX] & ~ones | value
