"""A page fault is injected as if VM entry loaded its address: the guest's handler finds an old one in CR2."""

from hvfuzz.bugs import Bug


def replacement(vcpu, fault):
    vcpu.pending_fault = fault
    vcpu.vmcs.saved[17] |= 1 << 16


BUG = Bug(
    name="injected-without-cr2",
    replaces="hvfuzz.hypervisor.vcpu.injection:inject",
    replacement=replacement,
    findings=("exits/registers/outs",),
    trigger="""\
# hvp 1
world pair
outs(dom1, port=0x3f8, size=1, gva=0x700000, times=1)
""",
)
