"""XSA-155 / CVE-2015-8550: a double fetch of a request in shared memory.

Cause: backends copied ring requests with plain structure accesses, which the compiler turned into several reads of
shared memory, so the value used could differ from the value checked. A second vCPU that changes the number of segments
between the two reads makes the backend run past its array.
"""

from hvfuzz.abi.limits import BATCH
from hvfuzz.abi.status import Status
from hvfuzz.bugs.bug import Bug
from hvfuzz.hypervisor.core.effects import Refused
from hvfuzz.hypervisor.core.host import HostArray
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.hypercalls.device.dma_submit import HEADER, REQUEST, DmaBatch, Request
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.cpu.vcpu import VCpu


def requests(self: DmaBatch, hv: Hypervisor, vcpu: VCpu) -> tuple[Request, ...] | Refused:
    """Check the number of requests in the ring, then fetch it again to copy them."""
    header = guest_access.copy_from_guest(hv, vcpu, self.ring, HEADER.size)
    if header is None:
        return Refused(Status.FAULT, "ring header unreadable")
    if not 0 < HEADER.unpack(header)[0] <= BATCH:
        return Refused(Status.INVALID, "number of requests")
    again = guest_access.copy_from_guest(hv, vcpu, self.ring, HEADER.size)
    if again is None:
        return Refused(Status.FAULT, "ring header unreadable")
    (count,) = HEADER.unpack(again)
    body = guest_access.copy_from_guest(hv, vcpu, self.ring + HEADER.size, count * REQUEST.size)
    if body is None:
        return Refused(Status.FAULT, "requests unreadable")
    copied: HostArray[Request] = HostArray([(0, 0, 0)] * BATCH, hv.work)
    for index, (source, target, length) in enumerate(REQUEST.iter_unpack(body)):
        copied[index] = (source, target, length)
    return tuple(copied[:count])


BUG = Bug(
    name="xsa-155",
    advisory="XSA-155, CVE-2015-8550",
    title="the number of requests in a shared ring is fetched again after it was checked",
    replaces="hvfuzz.hypervisor.hypercalls.device.dma_submit:DmaBatch.requests",
    replacement=requests,
    findings=("fetch/twice/device.dma_batch", "specification/fetched/device.dma_batch"),
    difficulty=4,
    story=__doc__,
    trigger="""\
# hvp 1
world pair
device.dma_map(dom1, iova=0, gfn=0x40, count=2, rights=R|W)
device.dma_batch(dom1, device=0, ring=[1, 0, 0x1000, 8])
""",
)
