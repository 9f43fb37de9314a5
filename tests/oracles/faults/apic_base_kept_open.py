"""APIC_BASE takes any value, which is then not there."""

from hvfuzz.bugs import Bug


def replacement(hv, vcpu, index, value):
    return True


BUG = Bug(
    name="apic-base-kept-open",
    replaces="hvfuzz.hypervisor.vcpu.msr:write",
    replacement=replacement,
    findings=("exits/fault/wrmsr",),
    trigger="""\
# hvp 1
world pair
wrmsr(dom1, index=APIC_BASE, value=0)
""",
)
