"""The body of a struct that crosses a page is read from the start of the same page."""

from hvfuzz.abi.decode import check_header, decode_body
from hvfuzz.abi.limits import HEADER_SIZE
from hvfuzz.abi.status import Status
from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import dispatch
from hvfuzz.hypervisor.memory import guest_access


def replacement(hv, vcpu, caller, declaration, pointer):
    version = caller.version
    header = guest_access.copy_from_guest(hv, vcpu, pointer, HEADER_SIZE)
    if header is None:
        return dispatch.HEADER_FAULT
    claimed = check_header(header, version)
    if type(claimed) is not tuple:
        return dispatch.HEADER_INVALID if claimed is Status.INVALID else dispatch.HEADER_TOO_NEW
    size, version = claimed
    rest = size - HEADER_SIZE
    at = (pointer & ~0xFFF) | (pointer + HEADER_SIZE & 0xFFF)
    body = guest_access.copy_from_guest(hv, vcpu, at, rest) if rest else b""
    if body is None:
        return dispatch.BODY_FAULT
    args = decode_body(declaration, version, body)
    return dispatch.BODY_TOO_NEW if isinstance(args, Status) else args


BUG = Bug(
    name="body-from-wrong-page",
    replaces="hvfuzz.hypervisor.core.dispatch:fetch_arguments",
    replacement=replacement,
    findings=("fetch/asked/discovery.limits",),
    trigger="""\
# hvp 1
world pair
store(dom1, gva=DIRECT+0x40ff8, size=8, value=0x20010)
store(dom1, gva=DIRECT+0x40000, size=8, value=5)
store(dom1, gva=DIRECT+0x41000, size=8, value=8)
vmcall(dom1, rax=discovery.limits, rdi=DIRECT+0x40ff8)
""",
)
