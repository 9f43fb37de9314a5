"""MOV to CR8 sets the task priority of vCPU 0 of the domain."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import exits
from hvfuzz.hypervisor.vcpu import apic


def replacement(hv, vcpu):
    vmcs = vcpu.vmcs
    register = vmcs.qualification >> 8 & 15
    if vmcs.qualification >> 4 & 3:
        vmcs.saved[register] = apic.get(hv, vcpu, apic.TPR) >> 4
    elif vmcs.saved[register] >> 4:
        exits.inject(vcpu, exits.GuestFault(exits.Vector.GP, 0))
        return
    else:
        apic.write(hv, hv.domains[vcpu.domain].vcpus[0], apic.TPR, vmcs.saved[register] << 4)
    exits.step_over(vmcs)


BUG = Bug(
    name="task-priority-of-a-sibling",
    replaces="hvfuzz.hypervisor.core.exits:cr_access",
    replacement=replacement,
    findings=("exits/interrupt/mov_cr",),
    trigger="""\
# hvp 1
world pair
mov_cr(dom1.1, register=8, value=5)
""",
)
