"""An IPI with a logical destination goes to the vCPUs of all domains that have that logical ID.

Physical destinations are searched in the caller's domain, logical ones in the machine: both branches were written at
different times. The logical ID follows from the number within the domain, so each guest has a vCPU of the same name. A
guest interrupts the others with vectors of its choice, such as those of their timers, and ends their HLT.

In the trigger dom1 sends vector 0x31 to the logical ID 1; dom2 has it pending.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.vcpu import apic


def targets(hv, vcpu, command):
    """The destinations of an interrupt command."""
    shorthand = command >> 18 & 3
    destination = command >> 32
    logical = not shorthand and destination != apic.BROADCAST and command & apic.LOGICAL
    own = hv.domains[vcpu.domain].vcpus
    for other in [each for domain in hv.domains for each in domain.vcpus] if logical else own:
        if shorthand:
            chosen = shorthand == apic.ALL or (other is vcpu) == (shorthand == apic.SELF)
        elif destination == apic.BROADCAST:
            chosen = True
        elif logical:
            name = apic.get(hv, other, apic.LDR)
            chosen = name >> 16 == destination >> 16 and bool(name & destination & 0xFFFF)
        else:
            chosen = apic.get(hv, other, apic.ID) == destination
        if chosen:
            yield other


BUG = Bug(
    name="c11-logical-to-all-domains",
    title="a logical IPI reaches the vCPUs of every domain",
    replaces="hvfuzz.hypervisor.vcpu.apic:targets",
    replacement=targets,
    findings=("exits/interrupt/wrmsr",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
wrmsr(dom1, index=X2APIC_SVR, value=0x1ff)
wrmsr(dom2, index=X2APIC_SVR, value=0x1ff)
wrmsr(dom1, index=X2APIC_ICR, value=0x100000831)
rdmsr(dom2, index=X2APIC_IRR1)
""",
)
