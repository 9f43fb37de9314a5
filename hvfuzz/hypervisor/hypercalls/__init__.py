"""The hypercalls: one class each, in the module of its family, from which all else derives."""

from hvfuzz.abi.registry import Abi
from hvfuzz.hypervisor.hypercalls import console, device, discovery, event, grant, memory, multicall, sched, time

ABI = Abi((discovery, memory, grant, event, sched, time, device, multicall, console))
"""The contract that this hypervisor implements."""
