"""A write of a reserved bit of an APIC register is taken for a success, and the bit ignored."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu import apic


def replacement(register, value):
    return register in apic.WRITABLE


BUG = Bug(
    name="msr-reserved-bits",
    replaces="hvfuzz.hypervisor.vcpu.apic:writable",
    replacement=replacement,
    findings=("exits/fault/wrmsr",),
    trigger="""\
# hvp 1
world pair
wrmsr(dom1, index=X2APIC_EOI, value=1)
""",
)
