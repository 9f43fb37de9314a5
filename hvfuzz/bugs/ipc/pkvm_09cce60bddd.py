"""pKVM 09cce60bddd: whether an address is memory is judged from a table entry that is filled lazily.

Cause: a host that shares a page with the hypervisor may share memory only. The check looked at the stage 2 entry, which
for an address that was never touched is empty, and took "no entry" for "plain memory": so a never-touched address in a
device's window could be shared.

Simplified: the address shared is any guest frame number without memory; the empty entry then names host frame 0, which
is the hypervisor's.
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
    """As the call's own check, but a page without an entry passes for memory."""
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
    title="an address that was never touched passes for memory, and can be shared",
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
