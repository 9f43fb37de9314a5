"""The entries of a multicall are fetched from the other guest."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls.multicall import Multicall

ORIGINAL = Multicall.check


def twin(hv, vcpu):
    """The vCPU of the other guest with the same index: all guests boot alike."""
    domain = {1: 2, 2: 1}.get(vcpu.domain)
    if domain is None or vcpu.index >= len(hv.domains[domain].vcpus):
        return vcpu
    return hv.domains[domain].vcpus[vcpu.index]


def replacement(self, hv, caller, vcpu):
    return ORIGINAL(self, hv, caller, twin(hv, vcpu))


BUG = Bug(
    name="entry-of-neighbour",
    replaces="hvfuzz.hypervisor.hypercalls.multicall:Multicall.check",
    replacement=replacement,
    findings=("principal/translation/multicall",),
    trigger="""\
# hvp 1
world pair
multicall(dom2, count=1)
  discovery.limits(dom2, what=GRANTS)
multicall(dom1, count=1)
  discovery.limits(dom1, what=GRANTS)
""",
)
