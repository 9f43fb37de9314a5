"""The memory of the first device model is not cleared at boot."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import boot

ORIGINAL = boot.start_processors


def replacement(hv):
    ORIGINAL(hv)
    hv.host.write64(hv.model_memory(1), hv.canary)


BUG = Bug(
    name="boot-model-memory-dirty",
    replaces="hvfuzz.hypervisor.core.boot:start_processors",
    replacement=replacement,
    findings=("exits/model/boot",),
    trigger="""\
# hvp 1
world pair
sched.yield(dom1)
""",
)
