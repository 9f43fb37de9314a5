"""The hypercalls: one class each, in the module or package of its family, from which all else derives."""

from hvfuzz.abi.registry import Abi
from hvfuzz.hypervisor.devices.all_models import MODELS
from hvfuzz.hypervisor.hypercalls import console, device, discovery, event, grant, memory, multicall, sched, time

ABI = Abi(
    (discovery, memory, grant, event, sched, time, device, multicall, console),
    device_models=[model.placement for model in MODELS],
)
"""The contract that this hypervisor implements."""
