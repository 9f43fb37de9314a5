"""List of all device models. To add one, write a module here and add its class to MODELS."""

from typing import Final

from hvfuzz.hypervisor.devices.coalesced_mmio import CoalescedMmio
from hvfuzz.hypervisor.devices.device_model import DeviceModel
from hvfuzz.hypervisor.devices.fdc import Fifo
from hvfuzz.hypervisor.devices.ioapic import IoApic
from hvfuzz.hypervisor.devices.timer import Timer
from hvfuzz.hypervisor.devices.uart import Uart

MODELS: Final[tuple[type[DeviceModel], ...]] = (Uart, Fifo, IoApic, Timer, CoalescedMmio)
"""Every domain has one of each, with their host memory in this order."""
