"""A string of any length is moved in one exit."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.devices import string_io


def replacement(hv, vcpu):
    saved = vcpu.vmcs.saved
    while saved[1]:
        string_io.move(hv, vcpu, saved[6])
        saved[6] += 1
        saved[1] -= 1
    return True


BUG = Bug(
    name="string-io-unbounded",
    replaces="hvfuzz.hypervisor.devices.string_io:transfer",
    replacement=replacement,
    findings=("exits/string/outs",),
    trigger="""\
# hvp 1
world pair
outs(dom1, port=0x3f8, size=1, gva=DIRECT+0x50000, times=65)
""",
)
