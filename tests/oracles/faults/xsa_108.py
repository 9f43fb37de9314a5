"""XSA-108: RDMSR of an x2APIC register is not checked against the registers that there are, and reads past the page.

The page of an APIC has room for 256 registers of 16 bytes, the range of MSRs has 1024: what lies behind it in host
memory, three frames of whoever has them, can be read word by word.
"""

from hvfuzz.bugs import Bug


def replacement(register):
    return register not in (0x0B, 0x3F)


BUG = Bug(
    name="xsa-108",
    replaces="hvfuzz.hypervisor.vcpu.apic:readable",
    replacement=replacement,
    findings=("host_memory/free/rdmsr",),
    trigger="""\
# hvp 1
world pair
rdmsr(dom1, index=X2APIC_LAST)
""",
)
