"""The version check is forgotten."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import dispatch


def replacement(vcpu, caller, declaration):
    if vcpu.cpl:
        return dispatch.USER_MODE
    if declaration is None:
        return dispatch.UNKNOWN
    if declaration.privileged and not caller.privileged:
        return dispatch.UNPRIVILEGED
    return None


BUG = Bug(
    name="version-check-by-struct",
    replaces="hvfuzz.hypervisor.core.dispatch:entitlement",
    replacement=replacement,
    findings=("fetch/version/device.dma_batch",),
    trigger="""\
# hvp 1
world old
multicall(dom2, count=1)
  device.dma_batch(dom2, device=0, ring=[0])
""",
)
