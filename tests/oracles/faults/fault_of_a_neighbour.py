"""The exception of a refused access is injected into the other guest's vCPU."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits
from hvfuzz.machine.cpu.faults import GuestFault, Vector


def replacement(hv, vcpu):
    exits.inject(hv.domains[{1: 2}.get(vcpu.domain, 1)].vcpus[0], GuestFault(Vector.GP, 0))


BUG = Bug(
    name="fault-of-a-neighbour",
    replaces="hvfuzz.hypervisor.core.exits:refuse_access",
    replacement=replacement,
    findings=("principal/injection/load",),
    trigger="""\
# hvp 1
world pair
cpuid(dom2, leaf=0)
load(dom1, gva=DIRECT+0x1f0000, size=8)
""",
)
