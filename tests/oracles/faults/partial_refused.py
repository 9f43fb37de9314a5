"""Pages are removed up to the one that is refused."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.effects import Effect
from hvfuzz.hypervisor.hypercalls.memory import reservation
from hvfuzz.hypervisor.memory import page_checks
from hvfuzz.hypervisor.memory.table_tree import leaf_frame


def replacement(self, hv, caller, vcpu):
    if not page_checks.range_ok(self.first, self.count, 512):
        return page_checks.BAD_RANGE
    for gfn, entry, level in list(caller.stage2.leaves(self.first, self.count)):
        r = page_checks.release_refusal(hv, caller, gfn, entry, level)
        if r is not None:
            return r
        reservation.RemovePage(caller.id, gfn, leaf_frame(entry, level, gfn)).apply(hv)
    return Effect((), self.count)


BUG = Bug(
    name="partial-refused",
    replaces="hvfuzz.hypervisor.hypercalls.memory.reservation:Decrease.check",
    replacement=replacement,
    findings=("specification/frame/memory.decrease",),
    trigger="""\
# hvp 1
world pair
memory.decrease(dom1, first=0xf0, count=17)
""",
)
