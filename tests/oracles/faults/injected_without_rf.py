"""An exception is injected without RF, so the frame of a fault looks like that of a trap."""

from hvfuzz.bugs import Bug


def replacement(vcpu, fault):
    vcpu.pending_fault = fault


BUG = Bug(
    name="injected-without-rf",
    replaces="hvfuzz.hypervisor.vcpu.injection:inject",
    replacement=replacement,
    findings=("exits/registers/rdmsr",),
    trigger="""\
# hvp 1
world pair
rdmsr(dom1, index=FEATURE_CONTROL)
""",
)
