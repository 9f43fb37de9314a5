"""A fault in the middle of a string leaves the count as it was: what was sent is sent again."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.devices import string_io

ORIGINAL = string_io.transfer


def replacement(hv, vcpu):
    saved = vcpu.vmcs.saved
    count = saved[1]
    done = ORIGINAL(hv, vcpu)
    if vcpu.pending_fault is not None:
        saved[1] = count
    return done


BUG = Bug(
    name="string-io-count-later",
    replaces="hvfuzz.hypervisor.devices.string_io:transfer",
    replacement=replacement,
    findings=("exits/string/outs",),
    trigger="""\
# hvp 1
world pair
outs(dom1, port=0x3f8, size=1, gva=0x40fffe, times=8)
""",
)
