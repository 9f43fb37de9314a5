"""Serial port: the subset of a 16550A that a polling driver uses. Sent bytes are recorded."""

from enum import IntEnum
from typing import Final

from hvfuzz.abi import device_models
from hvfuzz.hypervisor.devices.device_model import DeviceModel, Site


class Register(IntEnum):
    """Port offsets (National Semiconductor PC16550D, table II); with DLAB set, offsets 0 and 1 are the divisor."""

    DATA = 0
    """RBR when read, THR when written."""
    IER = 1
    IIR = 2
    """FCR when written."""
    LCR = 3
    MCR = 4
    LSR = 5
    MSR = 6
    SCR = 7


PORTS: Final = 8
TRANSMITTED_LIMIT: Final = 256
RECEIVE_FIFO: Final = 16

LCR_DLAB: Final = 0x80
MCR_LOOPBACK: Final = 0x10
IER_RECEIVED: Final = 0x01
IER_TRANSMITTER_EMPTY: Final = 0x02
IER_LINE_STATUS: Final = 0x04
FCR_ENABLE: Final = 0x01
FCR_CLEAR_RECEIVER: Final = 0x02
IIR_NONE: Final = 0x01
IIR_TRANSMITTER_EMPTY: Final = 0x02
IIR_RECEIVED: Final = 0x04
IIR_LINE_STATUS: Final = 0x06
IIR_FIFO: Final = 0xC0
LSR_DATA_READY: Final = 0x01
LSR_OVERRUN: Final = 0x02
LSR_IDLE: Final = 0x60
"""THRE and TEMT: bytes are sent immediately, so the transmitter is always empty."""
MSR_CONNECTED: Final = 0xB0
"""CTS, DSR and DCD: the other end is always connected."""


class Uart(DeviceModel):
    """The serial port of one domain. It raises no interrupts: drivers poll LSR or IIR.

    `transmitted` keeps the last TRANSMITTED_LIMIT bytes sent; `received` holds the bytes not yet read.
    `accesses` counts accesses from either end: while it is constant, so is the state.
    """

    __slots__ = (
        "accesses",
        "divisor",
        "fifo",
        "ier",
        "lcr",
        "mcr",
        "overrun",
        "received",
        "scratch",
        "transmitted",
        "transmitter_news",
    )

    placement = device_models.UART

    def __init__(self, site: Site) -> None:
        self.accesses: int = 0
        self.transmitted = bytearray()
        self.received: list[int] = []
        super().__init__(site)

    def reset(self) -> None:
        """Set the power-on state; clears sent and received bytes."""
        self.accesses += 1
        self.transmitted.clear()
        self.received.clear()
        self.divisor: int = 1
        self.ier: int = 0
        self.lcr: int = 0
        self.mcr: int = 0
        self.scratch: int = 0
        self.fifo: bool = False
        self.overrun: bool = False
        self.transmitter_news: bool = False
        """The transmitter-empty condition is pending in IIR."""

    def port_read(self, offset: int, size: int) -> int:
        """IN of 1, 2 or 4 bytes reads that many 8-bit registers; ones beyond the last."""
        self.accesses += 1
        value = 0
        for i in range(size):
            byte = self._read(offset + i) if 0 <= offset + i < PORTS else 0xFF
            value |= byte << (i << 3)
        return value

    def port_write(self, offset: int, size: int, value: int) -> None:
        """OUT of 1, 2 or 4 bytes writes that many 8-bit registers; ignored beyond the last."""
        self.accesses += 1
        for i in range(size):
            if 0 <= offset + i < PORTS:
                self._write(offset + i, value >> (i << 3) & 0xFF)

    def receive(self, byte: int) -> None:
        """Receive a byte from the line; an overrun if the buffer (16 bytes, or 1 without FIFO) is full."""
        self.accesses += 1
        if len(self.received) < (RECEIVE_FIFO if self.fifo else 1):
            self.received.append(byte & 0xFF)
            return
        self.overrun = True
        if not self.fifo:
            self.received[0] = byte & 0xFF  # without a FIFO, the new byte replaces the old one

    def _read(self, register: int) -> int:
        if register == Register.DATA:
            if self.lcr & LCR_DLAB:
                return self.divisor & 0xFF
            return self.received.pop(0) if self.received else 0
        if register == Register.IER:
            return self.divisor >> 8 if self.lcr & LCR_DLAB else self.ier
        if register == Register.IIR:
            return self._identify()
        if register == Register.LCR:
            return self.lcr
        if register == Register.MCR:
            return self.mcr
        if register == Register.LSR:
            status = LSR_IDLE | (LSR_DATA_READY if self.received else 0)
            if self.overrun:
                status |= LSR_OVERRUN
                self.overrun = False  # cleared by the read
            return status
        if register == Register.MSR:
            return self._modem_status()
        return self.scratch

    def _write(self, register: int, value: int) -> None:
        if register == Register.DATA:
            if self.lcr & LCR_DLAB:
                self.divisor = self.divisor & 0xFF00 | value
            else:
                self._transmit(value)
        elif register == Register.IER:
            if self.lcr & LCR_DLAB:
                self.divisor = self.divisor & 0xFF | value << 8
            else:
                if value & ~self.ier & IER_TRANSMITTER_EMPTY:
                    self.transmitter_news = True  # enabling the interrupt while the transmitter is empty raises it
                self.ier = value & 0x0F
        elif register == Register.IIR:
            enable = bool(value & FCR_ENABLE)
            if enable != self.fifo or (enable and value & FCR_CLEAR_RECEIVER):
                self.received.clear()  # changing the FIFO mode clears the FIFOs, too
            self.fifo = enable
        elif register == Register.LCR:
            self.lcr = value
        elif register == Register.MCR:
            self.mcr = value & 0x1F
        elif register == Register.SCR:
            self.scratch = value

    def _transmit(self, byte: int) -> None:
        self.transmitter_news = True
        if self.mcr & MCR_LOOPBACK:
            self.receive(byte)
            return
        self.transmitted.append(byte)
        if len(self.transmitted) > TRANSMITTED_LIMIT:
            del self.transmitted[0]

    def _identify(self) -> int:
        """IIR: the enabled condition of highest priority; reading transmitter-empty clears it."""
        fifo = IIR_FIFO if self.fifo else 0
        if self.ier & IER_LINE_STATUS and self.overrun:
            return IIR_LINE_STATUS | fifo
        if self.ier & IER_RECEIVED and self.received:
            return IIR_RECEIVED | fifo
        if self.ier & IER_TRANSMITTER_EMPTY and self.transmitter_news:
            self.transmitter_news = False
            return IIR_TRANSMITTER_EMPTY | fifo
        return IIR_NONE | fifo

    def _modem_status(self) -> int:
        """MSR: the other end's lines; in loopback the own outputs (RTS as CTS, DTR as DSR, OUT1 as RI, OUT2 as DCD)."""
        if not self.mcr & MCR_LOOPBACK:
            return MSR_CONNECTED
        rts, dtr = self.mcr >> 1 & 1, self.mcr & 1
        return rts << 4 | dtr << 5 | (self.mcr >> 2 & 3) << 6
