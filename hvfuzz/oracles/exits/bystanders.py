"""Detects accesses to serial ports in an op without port I/O.

What vCPUs that do not act may not lose is judged by the oracle `principal`, exit by exit. Helper of the oracle `exits`;
reports nothing itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence


class Bystanders:
    """The number of accesses to each serial port after the last op."""

    def __init__(self) -> None:
        self._uarts: Final[list[Any]] = []
        self.ports = False
        """Whether this op did port I/O."""
        self._accesses: list[int] = []
        self._base: list[int] = []

    def attach(self, uarts: Sequence[Any]) -> None:
        """Take the current state as the base; `uarts` are the serial ports, by domain."""
        self._uarts[:] = uarts
        self._base = [uart.accesses for uart in uarts]
        self.reset()

    def reset(self) -> None:
        """Follow the machine's reset to its snapshot."""
        self._accesses = self._base
        self.ports = False

    def accessed(self) -> bool:
        """Whether a serial port was accessed in an op without port I/O. The present state is adopted."""
        accesses = [uart.accesses for uart in self._uarts]
        wrong = accesses != self._accesses and not self.ports
        self._accesses = accesses
        self.ports = False
        return wrong
