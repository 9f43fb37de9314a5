"""The struct is always read as the domain's version lays it out."""

from hvfuzz.abi.decode import check_header, decode_body
from hvfuzz.abi.limits import HEADER_SIZE
from hvfuzz.abi.status import Status
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import dispatch
from hvfuzz.hypervisor.memory import guest_access


def replacement(hv, vcpu, caller, declaration, pointer):
    header = guest_access.copy_from_guest(hv, vcpu, pointer, HEADER_SIZE)
    if header is None:
        return dispatch.HEADER_FAULT
    claimed = check_header(header, caller.version)
    if type(claimed) is not tuple:
        return dispatch.HEADER_INVALID if claimed is Status.INVALID else dispatch.HEADER_TOO_NEW
    size, _ = claimed
    rest = size - HEADER_SIZE
    body = guest_access.copy_from_guest(hv, vcpu, pointer + HEADER_SIZE, rest) if rest else b""
    if body is None:
        return dispatch.BODY_FAULT
    args = decode_body(declaration, caller.version, body)
    return dispatch.BODY_TOO_NEW if isinstance(args, Status) else args


BUG = Bug(
    name="version-of-call",
    replaces="hvfuzz.hypervisor.core.dispatch:fetch_arguments",
    replacement=replacement,
    findings=("specification/args/memory.populate",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x200, count=1, order=0, flags=2) !version=1
""",
)
