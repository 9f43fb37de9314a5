"""Hears of each access to a register of a device, by giving the devices of a machine a class that tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from hvfuzz.machine.devices.pci_function import Device
    from hvfuzz.machine.machine import Machine

Heard = Callable[[str, int, int, int, bool], None]
"""Called with (name of the device, offset, size in bytes, value, whether it is written)."""


class DeviceWatch:
    """Lets `heard` be called at each access to a register."""

    __slots__ = ("_heard", "_telling")

    def __init__(self, heard: Heard) -> None:
        self._heard: Final = heard
        self._telling: Final[dict[type, type]] = {}
        """Class of a device -> the class that tells, which has that one as its base."""

    def begin(self, machine: Machine) -> None:
        """Hook the devices. What else has changed the class of one stays in force, beneath."""
        for device in machine.devices:
            kind = type(device)
            if kind not in self._telling.values():
                if kind not in self._telling:
                    self._telling[kind] = _telling(kind, self._heard)
                device.__class__ = self._telling[kind]


def _telling(kind: type[Device], heard: Heard) -> type[Device]:
    def mmio_read(device: Device, offset: int, size: int) -> int:
        value = kind.mmio_read(device, offset, size)
        heard(device.name, offset, size, value, False)
        return value

    def mmio_write(device: Device, offset: int, size: int, value: int) -> None:
        heard(device.name, offset, size, value, True)
        kind.mmio_write(device, offset, size, value)

    members: dict[str, Any] = {"__slots__": (), "mmio_read": mmio_read, "mmio_write": mmio_write}
    return type(f"Telling{kind.__name__}", (kind,), {**members, "__doc__": "See `DeviceWatch`."})
