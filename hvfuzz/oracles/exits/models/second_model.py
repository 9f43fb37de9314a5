"""What a second model of a device model has: the same registers, and what the hypervisor must keep for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from hvfuzz.machine.addresses import SIZE_MASK

if TYPE_CHECKING:
    from hvfuzz.machine.clock import Clock


class SecondModel:
    """The second model of one domain's device model. A register that a subclass does not define reads as nothing."""

    __slots__ = ("clock",)

    name: ClassVar[str]
    """Name of the placement that it models."""
    rule: ClassVar[str] = "model"
    """Rule of the oracle `exits` that a difference breaks."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def port_read(self, offset: int, width: int) -> int:
        """What IN of `width` bytes gives."""
        return SIZE_MASK[width]

    def port_write(self, offset: int, width: int, value: int) -> None:
        """OUT of the low `width` bytes of `value`."""

    def mmio_read(self, offset: int, width: int) -> int:
        """What a naturally aligned load of `width` bytes gives."""
        return 0

    def mmio_write(self, offset: int, width: int, value: int) -> None:
        """A naturally aligned store of `value`, which has at most `width` bytes."""

    def port_exit_started(self, subject: Any) -> None:
        """An exit for port I/O begins; `subject` is the hypervisor's model."""

    def expire(self) -> None:
        """An exit begins: deadlines that have passed expire."""

    def memory(self) -> bytes:
        """What the hypervisor's memory for the model must hold."""
        return b""

    def difference(self, subject: Any) -> str:
        """How the state of `subject`, the hypervisor's model, is wrong; empty if it is right."""
        return ""
