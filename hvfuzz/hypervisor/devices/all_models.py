"""All device models: a new one is a file beside this one, and a line of MODELS."""

from typing import Final

from hvfuzz.hypervisor.devices.coalesced_mmio import CoalescedMmio
from hvfuzz.hypervisor.devices.device_model import DeviceModel
from hvfuzz.hypervisor.devices.fdc import Fifo
from hvfuzz.hypervisor.devices.ioapic import IoApic
from hvfuzz.hypervisor.devices.timer import Timer
from hvfuzz.hypervisor.devices.uart import Uart

MODELS: Final[tuple[type[DeviceModel], ...]] = (Uart, Fifo, IoApic, Timer, CoalescedMmio)
"""Every domain has one of each; their memory lies in this order."""
