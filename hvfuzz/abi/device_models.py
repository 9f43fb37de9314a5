"""Device models as a guest finds them: I/O ports, the page of the register window, and names of registers.

A placement is part of the contract. The hypervisor's dispatch of port and register accesses, the kinds of values that
programs use, and the table in ABI.md all derive from it.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from hvfuzz.abi import boot

NO_REGISTERS: Final[Mapping[str, int]] = MappingProxyType({})


class Placement(NamedTuple):
    """Where a device model answers. `page` is a page of the window, counted from MMIO_BASE; -1: it has none."""

    name: str
    title: str
    ports: range = range(0)
    page: int = -1
    registers: Mapping[str, int] = NO_REGISTERS
    """Symbol of a register, as in programs -> its offset in the page."""
    edges: tuple[int, ...] = ()
    """Ports worth trying."""


_UART_PORTS: Final = range(boot.UART_PORT, boot.UART_PORT + boot.UART_PORTS)
_FDC_PORTS: Final = range(boot.FIFO_PORT, boot.FIFO_PORT + boot.FIFO_PORTS)

UART: Final = Placement("uart", "serial port (16550A)", ports=_UART_PORTS, edges=tuple(_UART_PORTS))
FDC: Final = Placement(
    "fdc",
    "floppy disk controller (82077AA) without a drive",
    ports=_FDC_PORTS,
    edges=(boot.FIFO_PORT + 2, boot.FIFO_PORT + 4, boot.FIFO_PORT + 5, boot.FIFO_PORT + 7, boot.FIFO_PORT - 1),
)
IOAPIC: Final = Placement(
    "ioapic",
    "I/O APIC (82093AA) with 8 pins",
    page=boot.IOAPIC,
    registers=MappingProxyType({"IOREGSEL": 0xD0, "IOWIN": 0xE0}),
)
TIMER: Final = Placement(
    "timer",
    "timer that raises an event on a port of the domain",
    page=boot.TIMER,
    registers=MappingProxyType(
        {"TIMER_PORT": 0x100, "TIMER_PERIOD": 0x108, "TIMER_DELAY": 0x110, "TIMER_EXPIRED": 0x118}
    ),
)
COALESCED: Final = Placement(
    "coalesced",
    "window whose writes are queued in a ring in guest memory",
    page=boot.COALESCED,
)
