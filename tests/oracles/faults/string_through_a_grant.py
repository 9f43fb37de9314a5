"""INS of a byte writes to any frame that is granted to the domain, mapped or not."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import guest_access

ORIGINAL = guest_access.write_operand


def replacement(hv, vcpu, pieces, data):
    entry = hv.domains[2].grants[0]
    if entry is not None and entry.to == vcpu.domain:
        pieces = [(gva, (entry.frame << 12) + (hpa & 0xFFF), size) for gva, hpa, size in pieces]
    ORIGINAL(hv, vcpu, pieces, data)


BUG = Bug(
    name="string-through-a-grant",
    replaces="hvfuzz.hypervisor.memory.guest_access:write_operand",
    replacement=replacement,
    findings=("ownership/copy/ins",),
    trigger="""\
# hvp 1
world pair
grant.create(dom2, gfn=0x50, to=dom1, rights=R|W)
ins(dom1, port=0x3f8, size=1, gva=DIRECT+0x40000, times=1)
""",
)
