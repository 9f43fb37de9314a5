"""All domains have one serial port."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import boot
from hvfuzz.hypervisor.devices.device_model import placed

ORIGINAL = boot.add_vcpu


def replacement(hv, domain):
    first = hv.domains[0].devices.by_name["uart"]
    domain.devices = placed(first if type(model) is type(first) else model for model in domain.devices.models)
    return ORIGINAL(hv, domain)


BUG = Bug(
    name="boot-shares-a-uart",
    replaces="hvfuzz.hypervisor.core.boot:add_vcpu",
    replacement=replacement,
    findings=("exits/model/boot",),
    trigger="""\
# hvp 1
world pair
out(dom1, port=0x3f8, size=1, value=65)
""",
)
