"""The registers are those of the timer of domain 1, whoever writes them."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits

emulated_device = exits.emulated_device


def replacement(hv, vcpu):
    device = emulated_device(hv, vcpu)
    timer = hv.domains[vcpu.domain].devices.by_name["timer"]
    return hv.domains[1].devices.by_name["timer"] if device is timer else device


BUG = Bug(
    name="timer-of-another",
    replaces="hvfuzz.hypervisor.core.exits:emulated_device",
    replacement=replacement,
    findings=("exits/model/mmio_write",),
    trigger="""\
# hvp 1
world pair
mmio_write(dom2, device=TIMER, register=TIMER_PERIOD, size=8, value=5)
""",
)
