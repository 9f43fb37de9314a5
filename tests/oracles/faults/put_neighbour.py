"""The result of an exchange is written to the other guest's memory, by way of its vCPU."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import guest_access


def twin(hv, vcpu):
    """The vCPU of the other guest with the same index: all guests boot alike."""
    domain = {1: 2, 2: 1}.get(vcpu.domain)
    if domain is None or vcpu.index >= len(hv.domains[domain].vcpus):
        return vcpu
    return hv.domains[domain].vcpus[vcpu.index]


def replacement(self, hv):
    guest_access.raw_copy_to_guest(hv, twin(hv, hv.machine.vcpus[self.vcpu]), self.gva, self.data)


BUG = Bug(
    name="put-neighbour",
    replaces="hvfuzz.hypervisor.hypercalls.memory.exchange:PutGuest.apply",
    replacement=replacement,
    findings=("principal/translation/memory.exchange",),
    trigger="""\
# hvp 1
world pair
memory.exchange(dom1, gfns=[0x40], out=DIRECT+0x50000, count=1, start=0)
load(dom2, gva=DIRECT+0x50000, size=8)
load(dom1, gva=DIRECT+0x50000, size=8)
""",
)
