"""Whose the device is, is not looked at."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls.device import assignment


def replacement(hv, caller, number):
    return assignment.NO_SUCH_DEVICE if hv.device(number) is None else None


BUG = Bug(
    name="submit-any-device",
    replaces="hvfuzz.hypervisor.hypercalls.device.dma_submit:device_refusal",
    replacement=replacement,
    findings=("specification/status/device.dma_submit",),
    trigger="""\
# hvp 1
world devices
device.dma_map(dom1, iova=0x5000, gfn=0x40, count=2, rights=R|W)
device.dma_submit(dom1, device=1, from=0x5000, to=0x6000, length=8)
""",
)
