"""Each vCPU begins with the clock of the host as its TSC offset, which tells how long boot took."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import boot

ORIGINAL = boot.add_vcpu


def replacement(hv, domain):
    vcpu = ORIGINAL(hv, domain)
    vcpu.vmcs.tsc_offset = hv.machine.clock.cycles
    return vcpu


BUG = Bug(
    name="boot-with-a-tsc-offset",
    replaces="hvfuzz.hypervisor.core.boot:add_vcpu",
    replacement=replacement,
    findings=("exits/control/boot",),
    trigger="""\
# hvp 1
world pair
sched.yield(dom1)
""",
)
