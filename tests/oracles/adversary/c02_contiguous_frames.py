"""A result that crosses a page is written to consecutive host frames: only the first page is translated.

Pages that follow each other in a guest's address space need not do so in the host. What lies beyond the first page is
written to the next host frame: here another guest's page (or a page table).

In the trigger dom2 gets the frame between two frames of dom1. The second number that `memory.exchange` returns to
dom1 lands in the first word of dom2's page.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.guest_access import _pieces, translate_for, write_at
from hvfuzz.machine.addresses import U64, WRITE


def raw_copy_to_guest(hv, vcpu, gva, data):
    """Translate the first page, and go on from there."""
    gva &= U64
    first = translate_for(hv, vcpu, gva, WRITE)
    if first is None:
        return False
    done = 0
    for start, length in _pieces(gva, len(data)):
        write_at(hv, vcpu, start, first + done, data[done : done + length])
        done += length
    return True


BUG = Bug(
    name="c02-contiguous-frames",
    title="a result that crosses a page runs into the next host frame, which is another guest's",
    replaces="hvfuzz.hypervisor.memory.guest_access:raw_copy_to_guest",
    replacement=raw_copy_to_guest,
    findings=("ownership/copy/memory.exchange",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x100, count=1, order=0)
memory.populate(dom2, first=0x100, count=1, order=0)
memory.populate(dom1, first=0x101, count=1, order=0)
store(dom2, gva=DIRECT+0x100000, size=8, value=0x2222)
memory.exchange(dom1, gfns=[0x40, 0x41], out=DIRECT+0x100ff8, count=2, start=0)
load(dom2, gva=DIRECT+0x100000, size=8)
""",
)
