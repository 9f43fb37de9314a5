"""The MSR bitmap lets guests write to the APIC base, an MSR of the host."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu import msr

ORIGINAL = msr.bitmap


def replacement():
    bits = bytearray(ORIGINAL())
    bits[2048 + 0x1B // 8] &= ~(1 << 0x1B % 8)
    return bytes(bits)


BUG = Bug(
    name="boot-bitmap-passes-the-apic",
    replaces="hvfuzz.hypervisor.vcpu.msr:bitmap",
    replacement=replacement,
    findings=("exits/control/boot",),
    trigger="""\
# hvp 1
world pair
sched.yield(dom1)
""",
)
