"""An element that crosses into a page that is not there reports the address of its first byte as the faulting one.

CR2 must hold the address that could not be translated (SDM Vol. 3A, 4.7): a byte of the second page. A kernel that
pages in what CR2 names does so for the first page, which is there, and takes the same fault for ever: a process hangs
its kernel with one instruction.

In the trigger the second half of a 4-byte element lies beyond the user pages.
"""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.guest_access import _pieces, guest_range_ok, translate_as_guest
from hvfuzz.machine.cpu.faults import GuestFault, Vector


def operand(hv, vcpu, gva, size, access):
    """Locate the operand; a fault names its first byte."""
    if not guest_range_ok(gva, size):
        return GuestFault(Vector.GP)
    pieces = []
    for start, length in _pieces(gva, size):
        hpa = translate_as_guest(hv, vcpu, start, access)
        if isinstance(hpa, GuestFault):
            return GuestFault(hpa.vector, hpa.error, gva if hpa.vector == Vector.PF else 0)
        pieces.append((start, hpa, length))
    return pieces


BUG = Bug(
    name="c06-cr2-of-first-byte",
    title="CR2 names the page before the one that faults",
    replaces="hvfuzz.hypervisor.memory.guest_access:operand",
    replacement=operand,
    findings=("exits/string/outs",),
    story=__doc__,
    trigger="""\
# hvp 1
world pair
outs(dom1, port=0x3f8, size=4, gva=0x40fffe, times=1)
read_cr(dom1, register=CR2)
""",
)
