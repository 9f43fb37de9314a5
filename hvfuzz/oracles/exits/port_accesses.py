"""IN, OUT and their strings: an oracle's part, which knows what the domain's own devices at its ports make of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from hvfuzz.abi.boot import FIFO_PORT, FIFO_PORTS, UART_PORT, UART_PORTS
from hvfuzz.hypervisor.devices.uart import Uart
from hvfuzz.machine.addresses import U64
from hvfuzz.machine.cpu.vmcs import RAX, RCX, RIP
from hvfuzz.oracles.exits import string_transfers

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.exits.device_models import Floppy, Models
    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow


class PortIo:
    """Follows the port accesses on one machine; `report` takes a rule and a message."""

    __slots__ = ("_models", "_report", "_scene", "_shadow", "_uarts")

    def __init__(
        self, scene: Scene, shadow: PageTableShadow, models: Models, report: Callable[[str, str], None]
    ) -> None:
        self._scene: Final = scene
        self._shadow: Final = shadow
        self._models: Final = models
        self._report: Final = report
        self._uarts: list[Uart] = []
        """The serial port of each domain when the exit began; of the one that accesses it, as it should be then."""

    def started(self) -> None:
        """A port is accessed: remember what the serial ports are like."""
        self._uarts = [_copy(domain.uart) for domain in self._shadow.domains]

    def expect(self, vcpu: VCpu, expected: list[Any]) -> None:
        """Put what the guest should find into `expected`, the registers that it left with."""
        if vcpu.vmcs.string:
            self._expect_string(vcpu, expected)
        else:
            self._expect_port(vcpu, expected)
        if not 0 <= vcpu.vmcs.port - UART_PORT < UART_PORTS:
            self._models.judge(self._report)
        for domain, uart in zip(self._shadow.domains, self._uarts, strict=True):
            if _state(domain.uart) != _state(uart):
                self._report("others", f"port I/O of dom{vcpu.domain} leaves dom{domain.id}'s serial port wrong")

    def _device_at(self, vcpu: VCpu) -> tuple[Uart | Floppy | None, int]:
        """The domain's own device that has the port, and which of its ports that is."""
        port = vcpu.vmcs.port
        if 0 <= port - UART_PORT < UART_PORTS:
            return self._uarts[vcpu.domain], port - UART_PORT
        if 0 <= port - FIFO_PORT < FIFO_PORTS:
            return self._models.floppy(vcpu.domain), port - FIFO_PORT
        return None, 0

    def _expect_string(self, vcpu: VCpu, expected: list[Any]) -> None:
        """INS or OUTS: the elements of a burst, copied from and to guest memory, which only a call does else."""
        vmcs, calls = vcpu.vmcs, self._scene.calls
        device, offset = self._device_at(vcpu)
        wrong = string_transfers.judge(self._scene.machine, calls, vcpu, device, offset, expected)
        if wrong:
            self._report("string", f"{'OUTS' if vmcs.write else 'INS'}: {wrong}")
        calls.abandon()
        if not expected[RCX]:
            expected[RIP] = (expected[RIP] + vmcs.length) & U64

    def _expect_port(self, vcpu: VCpu, expected: list[Any]) -> None:
        """One element; where nothing answers, all ones."""
        vmcs = vcpu.vmcs
        width = vmcs.width
        device, offset = self._device_at(vcpu)
        ones = (1 << 8 * width) - 1
        if vmcs.write:
            if device is not None:
                device.port_write(offset, width, expected[RAX])
            return
        value = ones if device is None else device.port_read(offset, width)
        expected[RAX] = value if width >= 4 else expected[RAX] & ~ones | value


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
