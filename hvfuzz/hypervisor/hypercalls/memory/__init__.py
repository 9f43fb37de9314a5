"""The caller's memory: calls that add and remove pages, set their rights, or exchange their frames."""

from hvfuzz.hypervisor.hypercalls.memory.exchange import Exchange
from hvfuzz.hypervisor.hypercalls.memory.protect import Protect
from hvfuzz.hypervisor.hypercalls.memory.reservation import Decrease, Populate

__all__ = ["Decrease", "Exchange", "Populate", "Protect"]
