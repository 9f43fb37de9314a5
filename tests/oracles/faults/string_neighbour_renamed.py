"""OUTS sends the other guest's memory out of the caller's serial port, in the caller's name."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.cpu.faults import GuestFault


def twin(hv, vcpu):
    """The vCPU of the other guest with the same index: all guests boot alike."""
    domain = {1: 2, 2: 1}.get(vcpu.domain)
    if domain is None or vcpu.index >= len(hv.domains[domain].vcpus):
        return vcpu
    return hv.domains[domain].vcpus[vcpu.index]


def replacement(hv, vcpu, gva, size):
    pieces = guest_access.operand(hv, twin(hv, vcpu), gva, size, guest_access.READ)
    if isinstance(pieces, GuestFault):
        return pieces
    return b"".join([guest_access.read_at(hv, vcpu, start, hpa, length) for start, hpa, length in pieces])


BUG = Bug(
    name="string-neighbour-renamed",
    replaces="hvfuzz.hypervisor.memory.guest_access:fetch_operand",
    replacement=replacement,
    findings=("principal/translation/outs",),
    trigger="""\
# hvp 1
world pair
outs(dom1, port=0x3f8, size=1, gva=DIRECT+0x50000, times=8)
""",
)
