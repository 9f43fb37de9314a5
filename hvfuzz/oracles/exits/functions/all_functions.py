"""List of the second models of the PCI functions, by number (ABI.md, device pages)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hvfuzz.oracles.exits.functions.copy_engine import CopyEngine
from hvfuzz.oracles.exits.functions.dma_path import DmaPath
from hvfuzz.oracles.exits.functions.second_function import Bus, SecondFunction
from hvfuzz.oracles.exits.functions.virtio_card import Card
from hvfuzz.oracles.exits.functions.virtio_disk import Disk

if TYPE_CHECKING:
    from hvfuzz.oracles.scene.scene import Scene

FUNCTIONS: Final[tuple[type[CopyEngine | Disk | Card], ...]] = (CopyEngine, CopyEngine, Disk, Card)
FIRST_SLOT: Final = 4
"""PCI device number of function 0, on bus 0; the others follow in order."""
SLOT: Final = 8
"""Functions of a PCI device number: the requester id is bus, device (5 bits), function (3 bits)."""


def second_functions(scene: Scene) -> Bus:
    """The models of all functions of the machine, powered on. Raises ValueError if there is none for a function."""
    devices = scene.machine.devices
    if len(devices) != len(FUNCTIONS):
        raise ValueError(f"{len(devices)} PCI functions, second models of {len(FUNCTIONS)}")
    bus = Bus(DmaPath(scene), scene.memory_size)
    functions: list[SecondFunction] = [
        model(bus, (FIRST_SLOT + number) * SLOT, devices[number].name) for number, model in enumerate(FUNCTIONS)
    ]
    bus.functions = functions
    return bus
