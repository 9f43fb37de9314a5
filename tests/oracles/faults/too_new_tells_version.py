"""On TOO_NEW the version that would be accepted is written into the guest's struct."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import dispatch
from hvfuzz.hypervisor.memory import guest_access

ORIGINAL = dispatch.fetch_arguments


def replacement(hv, vcpu, caller, declaration, pointer):
    args = ORIGINAL(hv, vcpu, caller, declaration, pointer)
    if args is dispatch.HEADER_TOO_NEW:
        guest_access.copy_to_guest(hv, vcpu, pointer + 2, caller.version.to_bytes(2, "little"))
    return args


BUG = Bug(
    name="too-new-tells-version",
    replaces="hvfuzz.hypervisor.core.dispatch:fetch_arguments",
    replacement=replacement,
    findings=("exits/call/sched.yield",),
    trigger="""\
# hvp 1
world pair
sched.yield(dom1) !version=9
load(dom1, gva=DIRECT+0x10000, size=8)
""",
)
