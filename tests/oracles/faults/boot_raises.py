"""gfn 0x30 cannot be mapped."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.host import HostBug


def replacement(self, gfn, hfn, rights, *, block=False, foreign=False):
    raise HostBug("no")


BUG = Bug(
    name="boot-raises",
    replaces="hvfuzz.hypervisor.memory.stage2:Stage2.map",
    replacement=replacement,
    findings=("host_memory/exception:HostBug/boot",),
    trigger="""\
# hvp 1
world pair
sched.yield(dom1)
""",
)
