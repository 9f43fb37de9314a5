"""List of all second models. To add one, write a module here and add its class to SECOND_MODELS."""

from typing import Final

from hvfuzz.oracles.exits.models.coalesced import QueueWindow
from hvfuzz.oracles.exits.models.fdc import Floppy
from hvfuzz.oracles.exits.models.ioapic import Interrupts
from hvfuzz.oracles.exits.models.second_model import SecondModel
from hvfuzz.oracles.exits.models.timer import SecondTimer
from hvfuzz.oracles.exits.models.uart import SerialPort

SECOND_MODELS: Final[tuple[type[SecondModel], ...]] = (SerialPort, Floppy, Interrupts, SecondTimer, QueueWindow)
