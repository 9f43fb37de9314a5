"""Each entry of a multicall runs, and has its outcome written, as vCPU 0 of the domain."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.hypercalls.multicall import Multicall, RunEntry

ORIGINAL = Multicall.check


def replacement(self, hv, caller, vcpu):
    effect = ORIGINAL(self, hv, caller, vcpu)
    if not hasattr(effect, "steps"):
        return effect
    first = caller.vcpus[0].id
    return effect._replace(steps=tuple(RunEntry(step.batch, first, *step[2:]) for step in effect.steps))


BUG = Bug(
    name="entry-runs-as-sibling",
    replaces="hvfuzz.hypervisor.hypercalls.multicall:Multicall.check",
    replacement=replacement,
    findings=("principal/step/multicall",),
    trigger="""\
# hvp 1
world pair
multicall(dom1.1, count=1)
  discovery.limits(dom1.1, what=GRANTS)
""",
)
