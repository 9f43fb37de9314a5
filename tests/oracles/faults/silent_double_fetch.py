"""The count is checked in a copy and then read again through the host's own mapping (no accessor)."""

import struct

from hvfuzz.abi.status import Status
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.effects import Refused
from hvfuzz.hypervisor.core.host import HostArray
from hvfuzz.hypervisor.memory import guest_access


def replacement(self, hv, vcpu):
    at = guest_access.translate_for(hv, vcpu, self.ring, 1)
    header = guest_access.copy_from_guest(hv, vcpu, self.ring, 8)
    if header is None:
        return Refused(Status.FAULT, "x")
    (count,) = struct.unpack("<Q", header)
    if not 0 < count <= 16:
        return Refused(Status.INVALID, "n")
    body = guest_access.copy_from_guest(hv, vcpu, self.ring + 8, count * 24)
    if body is None:
        return Refused(Status.FAULT, "x")
    count = hv.machine.memory.load64(at)
    out = HostArray([(0, 0, 0)] * 16, hv.work)
    for i, r in enumerate(struct.iter_unpack("<3Q", body)):
        out[i] = r
    return tuple(out[:count])


BUG = Bug(
    name="silent-double-fetch",
    replaces="hvfuzz.hypervisor.hypercalls.device.dma_submit:DmaBatch.requests",
    replacement=replacement,
    findings=("host_memory/unannounced/device.dma_batch",),
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0, gfn=0x40, count=2, rights=R|W)
device.dma_batch(dom1, device=0, ring=[1, 0, 0x1000, 8])
""",
)
