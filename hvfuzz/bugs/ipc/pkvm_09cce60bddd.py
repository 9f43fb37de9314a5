"""pKVM 09cce60bddd: an address that was never touched is treated as memory.

Cause: a host may share only memory with the hypervisor. The check looked at the stage 2 entry, which is filled lazily,
and treated an empty entry as plain memory. So an address in a device's window could be shared before its first use.

Simplified: the address shared is any guest frame number without memory. The empty entry then names host frame 0, which
belongs to the hypervisor.
"""

from hvfuzz.abi.limits import MAX_GFN
from hvfuzz.abi.status import Status
from hvfuzz.bugs.bug import Bug
from hvfuzz.hypervisor.core.domains import Domain, Grant
from hvfuzz.hypervisor.core.effects import Effect, Refused
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.hypercalls.grant.entries import READ_WRITE, Create, CreateGrant
from hvfuzz.hypervisor.memory.table_tree import FOREIGN, READ, RIGHTS, leaf_frame
from hvfuzz.machine.cpu.vcpu import VCpu


def check(self: Create, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
    """The check of `grant.create`, but a page without a stage 2 entry is accepted."""
    gfn, rights = self.gfn, self.rights
    if gfn >= MAX_GFN:
        return Refused(Status.INVALID, "gfn out of range")
    if rights not in (READ, READ_WRITE):
        return Refused(Status.INVALID, "rights")
    to = hv.resolve(caller, self.to)
    if to is None:
        return Refused(Status.NO_DOMAIN, "to")
    if to is caller:
        return Refused(Status.INVALID, "grant to itself")
    leaf, level, _ = caller.stage2.lookup(gfn)
    frame = leaf_frame(leaf, level, gfn)
    if leaf & RIGHTS:
        if leaf & FOREIGN or hv.frames.owner(frame) != caller.id:
            return Refused(Status.NOT_OWNER, "gfn not the caller's")
        if rights & ~leaf:
            return Refused(Status.NOT_PERMITTED, "caller lacks the rights")
    ref = caller.grants.lowest_free()
    if ref < 0:
        return Refused(Status.LIMIT, "all entries taken")
    return Effect((CreateGrant(caller.id, ref, Grant(gfn, frame, to.id, rights)),), ref)


BUG = Bug(
    name="pkvm-09cce60bddd",
    advisory="Linux commit 09cce60bddd",
    title="an address without a stage 2 entry is treated as memory and can be shared",
    replaces="hvfuzz.hypervisor.hypercalls.grant.entries:Create.check",
    replacement=check,
    findings=("specification/status/grant.create",),
    difficulty=2,
    story=__doc__,
    trigger="""\
# hvp 1
world pair
grant.create(dom1, gfn=0x400, to=2, rights=R)
""",
)
