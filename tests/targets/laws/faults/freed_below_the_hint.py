"""Freed frames below the first free one stay out of the allocator's sight."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core.host import HostBug
from hvfuzz.hypervisor.memory.frames import OWNER_NONE, FrameState
from hvfuzz.machine.addresses import LARGE_FRAMES


def _release(self, hfn, frames):
    """Free the frames, but leave the hint where the search for free ones begins."""
    bits = (1 << frames) - 1 << (hfn & 511)
    number = hfn >> 9
    if not 0 <= hfn < self.frames.count or self.blocks[number] & bits:
        raise HostBug(f"frame {hfn:#x} is freed twice")
    self.frames.assign(hfn, OWNER_NONE, FrameState.FREE, frames)
    self.blocks[number] |= bits
    self.available += frames
    if frames == LARGE_FRAMES:
        self.host.observer.block_freed(hfn)
    else:
        for frame in range(hfn, hfn + frames):
            self.host.observer.frame_freed(frame)


BUG = Bug(
    name="freed-below-the-hint",
    title="frames that are freed are not allocated again",
    replaces="hvfuzz.hypervisor.memory.allocator:Allocator._release",
    replacement=_release,
    findings=("laws/undo/memory.populate",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x300, count=64, order=0)
memory.populate(dom1, first=0x340, count=64, order=0)
memory.populate(dom1, first=0x380, count=64, order=0)
memory.populate(dom1, first=0x3c0, count=64, order=0)
memory.populate(dom1, first=0x400, count=64, order=0)
memory.populate(dom1, first=0x440, count=64, order=0)
""",
)
