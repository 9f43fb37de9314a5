"""The last page of a reserved region is not reserved: its limit is taken as the end, and is the last byte.

VT-d spec 8.4: the limit is inclusive. The page goes to the allocator, and any guest gets it, with what the firmware and
its device keep there; the device, whose mapping lacks it, loses a page of its memory (XSA-378).

In the trigger dom1's device cannot reach its second page, and dom2 populates from the top of memory: its page is that
frame.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.host import HostFault
from hvfuzz.hypervisor.memory.rmrr import DEVICES_PER_BUS, FUNCTIONS, _scopes
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT
from hvfuzz.machine.vtd import dmar


def read_region(structure, at, memory, regions):
    """Add the region of an RMRR structure."""
    if len(structure) < dmar.RMRR.size:
        raise HostFault(f"DMAR table: RMRR structure of {len(structure)} bytes at offset {at}")
    _, _, _, segment, base, limit = dmar.RMRR.unpack_from(structure)
    if segment or base & PAGE_MASK or ~limit & PAGE_MASK or limit < base or limit >= memory:
        raise HostFault(f"DMAR table: reserved region {base:#x} to {limit:#x} of segment {segment}")
    region = range(base >> PAGE_SHIFT, limit >> PAGE_SHIFT)
    for kind, scope in _scopes(structure, dmar.RMRR.size, at):
        if kind != dmar.SCOPE_ENDPOINT or len(scope) != dmar.SCOPE.size + dmar.PATH.size:
            raise HostFault(f"DMAR table: reserved region for an unsupported device scope (type {kind})")
        *_, bus = dmar.SCOPE.unpack_from(scope)
        device, function = dmar.PATH.unpack_from(scope, dmar.SCOPE.size)
        if device >= DEVICES_PER_BUS or function >= FUNCTIONS:
            raise HostFault(f"DMAR table: reserved region for device {device}, function {function}")
        regions[bus << 8 | device << 3 | function] = region


BUG = Bug(
    name="c11-reserved-without-last-page",
    title="the last page of a reserved region is free memory",
    replaces="hvfuzz.hypervisor.memory.rmrr:_read_region",
    replacement=read_region,
    findings=("specification/iova/boot",),
    story=__doc__,
    trigger="""\
# hvp 1
world reserved
device.dma_map(dom1, iova=0x1000, gfn=0x40, count=1, rights=R|W)
device.dma_submit(dom1, device=1, from=0x1000, to=0xfff000, length=8)
memory.populate(dom2, first=0x100, count=1, order=0, flags=TOP_DOWN)
load(dom2, gva=DIRECT+0x100000, size=8)
""",
)
