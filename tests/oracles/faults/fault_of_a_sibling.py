"""The exception of a refused MSR goes to vCPU 0 of the domain."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits
from hvfuzz.hypervisor.vcpu import msr
from hvfuzz.machine.cpu.faults import GuestFault, Vector


def replacement(hv, vcpu):
    if msr.read(hv, vcpu, vcpu.vmcs.leaf) is None:
        exits.inject(hv.domains[vcpu.domain].vcpus[0], GuestFault(Vector.GP, 0))


BUG = Bug(
    name="fault-of-a-sibling",
    replaces="hvfuzz.hypervisor.core.exits:read_msr",
    replacement=replacement,
    findings=("principal/injection/rdmsr",),
    trigger="""\
# hvp 1
world pair
cpuid(dom1, leaf=0)
rdmsr(dom1.1, index=0x12345)
""",
)
