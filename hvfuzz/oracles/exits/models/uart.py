"""Second model of the serial port: a copy of the hypervisor's model, taken when an exit begins.

It shares its code with the subject, so it detects accesses to the wrong serial port, but not errors of the model. The
oracle `work` checks that the size of its state is bounded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hvfuzz.hypervisor.devices.uart import Uart
from hvfuzz.oracles.exits.models.second_model import SecondModel

if TYPE_CHECKING:
    from hvfuzz.machine.clock import Clock


class UartCopy(SecondModel):
    """The serial port of one domain, during one exit for port I/O."""

    __slots__ = ("copy",)

    name = "uart"
    rule = "others"

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.copy: Uart | None = None

    def port_exit_started(self, subject: Uart) -> None:
        """Copy the current state of `subject`."""
        copy: Uart = Uart.__new__(Uart)
        for name in Uart.__slots__:
            value = getattr(subject, name)
            setattr(copy, name, value.copy() if hasattr(value, "copy") else value)
        self.copy = copy

    def port_read(self, offset: int, width: int) -> int:
        """IN from the copy."""
        assert self.copy is not None
        return self.copy.port_read(offset, width)

    def port_write(self, offset: int, width: int, value: int) -> None:
        """OUT to the copy."""
        assert self.copy is not None
        self.copy.port_write(offset, width, value)

    def difference(self, subject: Any) -> str:
        """Compare all registers and both queues, at the end of the exit in which the copy was taken."""
        copy, self.copy = self.copy, None
        if copy is None or all(getattr(subject, name) == getattr(copy, name) for name in Uart.__slots__):
            return ""
        return "its state differs from that expected after this exit"
