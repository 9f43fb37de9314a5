"""All domains have one serial port."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import boot

ORIGINAL = boot.add_vcpu


def replacement(hv, domain):
    devices, first = domain.devices, hv.domains[0].devices
    devices.by_name["uart"] = first.by_name["uart"]
    devices.by_port.update({port: place for port, place in first.by_port.items() if port >= 0x3F8})
    return ORIGINAL(hv, domain)


BUG = Bug(
    name="boot-shares-a-uart",
    replaces="hvfuzz.hypervisor.core.boot:add_vcpu",
    replacement=replacement,
    findings=("exits/others/out",),
    trigger="""\
# hvp 1
world pair
out(dom1, port=0x3f8, size=1, value=65)
""",
)
