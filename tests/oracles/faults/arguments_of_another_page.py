"""The announced arguments name another device than the struct."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import dispatch

ORIGINAL = dispatch.fetch_arguments


def replacement(hv, vcpu, caller, declaration, pointer):
    args = ORIGINAL(hv, vcpu, caller, declaration, pointer)
    if declaration.name == "memory.protect" and hasattr(args, "first"):
        return type(args)(args.first, args.count, args.rights | 1)
    return args


BUG = Bug(
    name="arguments-of-another-page",
    replaces="hvfuzz.hypervisor.core.dispatch:fetch_arguments",
    replacement=replacement,
    findings=("specification/args/memory.protect",),
    trigger="""\
# hvp 1
world pair
memory.protect(dom1, first=0x40, count=1, rights=0)
""",
)
