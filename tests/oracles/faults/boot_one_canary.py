"""All domains have one canary, so a leak from one to the other is seen by nobody."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import canaries

ORIGINAL = canaries.canary


def replacement(secret, purpose, number):
    return ORIGINAL(secret, purpose, 0 if purpose == canaries.DOMAIN else number)


BUG = Bug(
    name="boot-one-canary",
    replaces="hvfuzz.hypervisor.core.canaries:canary",
    replacement=replacement,
    findings=("secrets/canary/boot",),
    trigger="""\
# hvp 1
world pair
sched.yield(dom1)
""",
)
