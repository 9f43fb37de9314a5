"""INS stores a whole word for each byte that it reads."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import guest_access


def replacement(hv, vcpu, gva):
    guest_access.copy_to_guest(hv, vcpu, gva, bytes(8))


BUG = Bug(
    name="string-io-overrun",
    replaces="hvfuzz.hypervisor.devices.string_io:move",
    replacement=replacement,
    findings=("exits/string/ins",),
    trigger="""\
# hvp 1
world pair
ins(dom1, port=0x3f8, size=1, gva=DIRECT+0x50000, times=2)
""",
)
