"""The caller's own memory: pages come, go, change their rights, or are exchanged for fresh ones."""

from hvfuzz.hypervisor.hypercalls.memory.exchange import Exchange
from hvfuzz.hypervisor.hypercalls.memory.protect import Protect
from hvfuzz.hypervisor.hypercalls.memory.reservation import Decrease, Populate

__all__ = ["Decrease", "Exchange", "Populate", "Protect"]
