"""The address of a string is not checked: OUTS sends the hypervisor's memory."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import guest_access


def replacement(hv, vcpu):
    vmcs = vcpu.vmcs
    saved = vmcs.saved
    data = guest_access.raw_copy_from_guest(hv, vcpu, saved[6], saved[1])
    for byte in data or b"":
        hv.domains[vcpu.domain].devices.by_name["uart"].port_write(vmcs.port - 0x3F8, 1, byte)
    saved[6] += saved[1]
    saved[1] = 0
    return True


BUG = Bug(
    name="string-io-hole",
    replaces="hvfuzz.hypervisor.devices.string_io:transfer",
    replacement=replacement,
    findings=("host_memory/hole/outs",),
    trigger="""\
# hvp 1
world pair
outs(dom1, port=0x3f8, size=1, gva=0xffff800000000000, times=8)
""",
)
