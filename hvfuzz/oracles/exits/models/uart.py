"""Second model of the serial port (National Semiconductor PC16550D data sheet, 8.0), as a polling driver sees it.

The line is infinitely fast, so the transmitter is always empty, and the other end is always connected. Bytes arrive
only in loopback. The hypervisor keeps the last 256 bytes that were sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hvfuzz.oracles.exits.models.second_model import SecondModel

if TYPE_CHECKING:
    from hvfuzz.machine.clock import Clock

REGISTERS: Final = 8
KEPT: Final = 256
FIFO: Final = 16
RBR_THR, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR = range(REGISTERS)
DLAB: Final = 0x80
"""Line control: offsets 0 and 1 are the divisor latches (8.1)."""
LOOP: Final = 0x10
"""Modem control (8.7)."""
E_RECEIVED, E_EMPTY, E_LINE = 1, 2, 4
"""Interrupt enable (8.6); bits 7 to 4 are always zero."""
MCR_BITS: Final = 0x1F
DATA_READY, OVERRUN, EMPTY = 0x01, 0x02, 0x60
"""Line status (8.4)."""
CONNECTED: Final = 0xB0
"""Modem status: CTS, DSR and DCD (8.8)."""
ENABLE, CLEAR_RECEIVER = 1, 2
"""FIFO control (8.5); the other bits count only with ENABLE."""
NOTHING, FROM_EMPTY, FROM_RECEIVED, FROM_LINE = 1, 2, 4, 6
"""Interrupt identification, lowest priority first (table III)."""
WITH_FIFO: Final = 0xC0
STATE: Final = ("lcr", "ier", "mcr", "scratch", "divisor", "fifo", "overrun", "received", "transmitted")
"""State of the hypervisor's model that is compared, in the order of `SerialPort.state`."""


class SerialPort(SecondModel):
    """The serial port of one domain."""

    __slots__ = ("divisor", "empty_pending", "fifo", "latched", "line", "overrun", "queue", "sent")

    name = "uart"

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.latched = dict.fromkeys((LCR, IER, MCR, SCR), 0)
        """The registers that read as they were written."""
        self.divisor = 1
        self.fifo = False
        self.overrun = False
        self.queue: list[int] = []
        """Received bytes that nobody has read."""
        self.sent = b""
        self.empty_pending = False
        """The transmitter has become empty, and IIR has not told it yet."""

    def port_read(self, offset: int, width: int) -> int:
        """IN of `width` bytes: that many registers, ones beyond the last."""
        return sum(
            (self._get(at) if at < REGISTERS else 0xFF) << 8 * (at - offset) for at in range(offset, offset + width)
        )

    def port_write(self, offset: int, width: int, value: int) -> None:
        """OUT of the low `width` bytes of `value`: that many registers; what lies beyond the last is lost."""
        for at in range(width):
            if offset + at < REGISTERS:
                self._put(offset + at, value >> 8 * at & 0xFF)

    def _get(self, register: int) -> int:
        latched = self.latched
        if register in (RBR_THR, IER) and latched[LCR] & DLAB:
            return self.divisor >> 8 * register & 0xFF
        if register == RBR_THR:
            return self.queue.pop(0) if self.queue else 0
        if register == IIR_FCR:
            return self._source() | (WITH_FIFO if self.fifo else 0)
        if register == LSR:
            status = EMPTY | (OVERRUN if self.overrun else 0) | (DATA_READY if self.queue else 0)
            self.overrun = False  # The read clears it (8.4, bit 1).
            return status
        if register == MSR:
            if not latched[MCR] & LOOP:
                return CONNECTED
            # In loopback: CTS is RTS, DSR is DTR, RI is OUT1, DCD is OUT2 (8.7, bit 4).
            dtr, rts, out1, out2 = (latched[MCR] >> bit & 1 for bit in range(4))
            return rts << 4 | dtr << 5 | out1 << 6 | out2 << 7
        return latched[register]

    def _source(self) -> int:
        """The condition of highest priority that is enabled; telling an empty transmitter ends that one (8.3)."""
        enabled = self.latched[IER]
        if self.overrun and enabled & E_LINE:
            return FROM_LINE
        if self.queue and enabled & E_RECEIVED:
            return FROM_RECEIVED
        if self.empty_pending and enabled & E_EMPTY:
            self.empty_pending = False
            return FROM_EMPTY
        return NOTHING

    def _put(self, register: int, byte: int) -> None:
        latched = self.latched
        if register in (RBR_THR, IER) and latched[LCR] & DLAB:
            shift = 8 * register
            self.divisor = self.divisor & ~(0xFF << shift) | byte << shift
        elif register == RBR_THR:
            self._send(byte)
        elif register == IER:
            # Enabling the interrupt of a transmitter that is empty raises it.
            self.empty_pending |= bool(byte & ~latched[IER] & E_EMPTY)
            latched[IER] = byte & 0x0F
        elif register == IIR_FCR:
            enable = bool(byte & ENABLE)
            if enable is not self.fifo or (enable and byte & CLEAR_RECEIVER):
                self.queue.clear()  # A change of the mode clears the FIFOs (8.5, bit 0).
            self.fifo = enable
        elif register in (LCR, SCR):
            latched[register] = byte
        elif register == MCR:
            latched[MCR] = byte & MCR_BITS

    def _send(self, byte: int) -> None:
        self.empty_pending = True
        if not self.latched[MCR] & LOOP:
            self.sent = (self.sent + bytes([byte]))[-KEPT:]
        elif len(self.queue) < (FIFO if self.fifo else 1):
            self.queue.append(byte)
        else:
            # A full FIFO keeps its bytes, and the receiver buffer is overwritten (8.4, bit 1).
            self.overrun = True
            if not self.fifo:
                self.queue[0] = byte

    def state(self) -> tuple[Any, ...]:
        """All state, in the order of STATE."""
        latched = self.latched
        registers = latched[LCR], latched[IER], latched[MCR], latched[SCR]
        return (*registers, self.divisor, self.fifo, self.overrun, self.queue, self.sent)

    def difference(self, subject: Any) -> str:
        """Compare all state of the port, and adopt that of the subject if it differs."""
        pending: bool = subject.transmitter_news
        found = (
            *(subject.lcr, subject.ier, subject.mcr, subject.scratch),
            *(subject.divisor, subject.fifo, subject.overrun, subject.received, subject.transmitted),
        )
        wanted = self.state()
        if found == wanted and pending == self.empty_pending:
            return ""
        text = f"the pending empty transmitter is {pending}, expected {self.empty_pending}"
        for name, is_, should in zip(STATE, found, wanted, strict=True):
            if is_ != should:
                text = f"{name} is {_shown(is_)}, expected {_shown(should)}"
                break
        self.latched.update(zip((LCR, IER, MCR, SCR), found, strict=False))
        self.divisor, self.fifo, self.overrun = found[4:7]
        self.queue, self.sent, self.empty_pending = list(subject.received), bytes(subject.transmitted), pending
        return text


def _shown(value: Any) -> str:
    """A value for messages: of many bytes, their number and the last ones."""
    if isinstance(value, bytes | bytearray):
        return f"{len(value)} bytes, the last {bytes(value[-4:])!r}"
    return f"{value}"
