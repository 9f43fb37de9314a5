"""Rights of the caller's own pages: `memory.protect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

from hvfuzz.abi.declaration import hypercall
from hvfuzz.abi.kinds import COUNT, RIGHTS, GfnArg
from hvfuzz.abi.limits import RANGE
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.effects import PAGE_WORK, Effect, Refused, Step
from hvfuzz.hypervisor.core.host import HostBug
from hvfuzz.hypervisor.core.work_quota import PREEMPTION_QUOTA
from hvfuzz.hypervisor.memory.page_checks import BAD_RANGE, POOL_TOO_SMALL, page_refusal, range_ok
from hvfuzz.hypervisor.memory.table_tree import BLOCK_LEVEL, BLOCK_PAGES, EXECUTE, READ, WRITE

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.cpu.vcpu import VCpu


PAGE_RIGHTS = (READ, READ | WRITE, READ | EXECUTE, READ | WRITE | EXECUTE)


@hypercall(
    0x12,
    result="count",
    errors=(Status.INVALID, Status.NOT_PRESENT, Status.NOT_OWNER, Status.NO_POOL),
    long=True,
)
class Protect:
    """Set the rights of the `count` pages (at most 512) from `first` on to R, RW, RX or RWX.

    A large page that lies only partly in the range, and has other rights, is split, which takes a table page. If an
    aligned range of 512 pages with consecutive frames gets equal rights by the call, a large page replaces their table,
    which returns to the pool.

    - `INVALID`: `count` is 0 or above 512; the range exceeds `MAX_GFN`; `rights` has any other value.
    - `NOT_PRESENT`, `NOT_OWNER`, for each page in order: it is absent; its frame belongs to another domain.
    - `NO_POOL`: the pool has too few pages for the splits.
    """

    first: GfnArg
    count: Annotated[int, COUNT.trying(RANGE, RANGE + 1)]
    rights: Annotated[int, RIGHTS.trying(*PAGE_RIGHTS)]

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """Checks, in order: range, rights, each page, table pages for splits."""
        if not range_ok(self.first, self.count, RANGE):
            return BAD_RANGE
        # EPT entries that allow writes but not reads are misconfigured (SDM Vol. 3C, 29.3.3.1).
        if self.rights not in PAGE_RIGHTS:
            return Refused(Status.INVALID, "rights")
        for gfn, entry, level in caller.stage2.leaves(self.first, self.count):
            refused = page_refusal(hv, caller, gfn, entry, level)
            if refused is not None:
                return refused
        if caller.stage2.pool.lacks(len(caller.stage2.blocks_cut(self.first, self.count, self.rights))):
            return POOL_TOO_SMALL
        return Effect(self._steps(caller), self.count)

    def _steps(self, caller: Domain) -> tuple[Step, ...]:
        """One step for each large leaf that lies wholly in the range, and for each quota of other pages."""
        steps: list[Step] = []
        gfn, end = self.first, self.first + self.count
        while gfn < end:
            block_end = (gfn & -BLOCK_PAGES) + BLOCK_PAGES
            _, level, _ = caller.stage2.lookup(gfn)
            if level == BLOCK_LEVEL and gfn % BLOCK_PAGES == 0 and block_end <= end:
                after = block_end
            else:
                after = min(gfn + PREEMPTION_QUOTA, block_end, end)
            steps.append(ProtectRange(caller.id, gfn, after - gfn, self.rights))
            gfn = after
        return tuple(steps)


class ProtectRange(NamedTuple):
    """Set the rights of the `pages` present pages of `domain` from `first` on, all in one leaf table."""

    domain: int
    first: int
    pages: int
    rights: int

    @property
    def work(self) -> int:
        """One page of work for each page, at most a quota."""
        return min(self.pages * PAGE_WORK, PREEMPTION_QUOTA)

    def apply(self, hv: Hypervisor) -> None:
        """Change the rights, merge tables where possible, and flush."""
        if not hv.domains[self.domain].stage2.protect(self.first, self.pages, self.rights):
            raise HostBug("no table page for a split in a checked protection")
