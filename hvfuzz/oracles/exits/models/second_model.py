"""Base class of second models: the registers of a device model, and the host memory it must hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from hvfuzz.machine.addresses import SIZE_MASK

if TYPE_CHECKING:
    from hvfuzz.machine.clock import Clock


class SecondModel:
    """The second model of one domain's device model. By default, ports read as ones and MMIO registers as zero."""

    __slots__ = ("clock",)

    name: ClassVar[str]
    """Name of the placement of the device model."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def port_read(self, offset: int, width: int) -> int:
        """IN of `width` bytes."""
        return SIZE_MASK[width]

    def port_write(self, offset: int, width: int, value: int) -> None:
        """OUT of the low `width` bytes of `value`."""

    def mmio_read(self, offset: int, width: int) -> int:
        """Naturally aligned load of `width` bytes."""
        return 0

    def mmio_write(self, offset: int, width: int, value: int) -> None:
        """Naturally aligned store of `value`, of `width` bytes."""

    def expire(self) -> None:
        """Called when an exit begins: expire deadlines that have passed."""

    def memory(self) -> bytes:
        """Expected contents of the hypervisor's memory for the model."""
        return b""

    def difference(self, subject: Any) -> str:
        """Compare the state of `subject`, the hypervisor's model; returns a message, empty if it is correct."""
        return ""
