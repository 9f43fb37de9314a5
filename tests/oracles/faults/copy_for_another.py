"""`grant.copy` of own pages is done for the other guest, by its page numbers."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls.grant.copy import Copy

ORIGINAL = Copy.check


def twin(hv, vcpu):
    """The vCPU of the other guest with the same index: all guests boot alike."""
    domain = {1: 2, 2: 1}.get(vcpu.domain)
    if domain is None or vcpu.index >= len(hv.domains[domain].vcpus):
        return vcpu
    return hv.domains[domain].vcpus[vcpu.index]


def replacement(self, hv, caller, vcpu):
    other = twin(hv, vcpu)
    return ORIGINAL(self, hv, hv.domains[other.domain], other)


BUG = Bug(
    name="copy-for-another",
    replaces="hvfuzz.hypervisor.hypercalls.grant.copy:Copy.check",
    replacement=replacement,
    findings=("principal/step/grant.copy",),
    trigger="""\
# hvp 1
world pair
grant.copy(dom1, flags=0, from=0x50, to=0x51, length=8)
""",
)
