"""The registers are those of the timer of domain 1, whoever writes them."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits

emulated_device = exits.emulated_device


def replacement(hv, vcpu):
    device = emulated_device(hv, vcpu)
    return hv.domains[1].timer if device is hv.domains[vcpu.domain].timer else device


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
