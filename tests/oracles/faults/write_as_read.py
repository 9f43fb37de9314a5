"""Every copy is translated as a read."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import guest_access

ORIGINAL = guest_access.translate_for


def replacement(hv, vcpu, gva, access_):
    return ORIGINAL(hv, vcpu, gva, 1)


BUG = Bug(
    name="write-as-read",
    replaces="hvfuzz.hypervisor.memory.guest_access:translate_for",
    replacement=replacement,
    findings=("fetch/translated/memory.exchange",),
    trigger="""\
# hvp 1
world pair
memory.protect(dom1, first=0x41, count=1, rights=R)
memory.exchange(dom1, gfns=[0x60], out=DIRECT+0x41000, count=1, start=0)
""",
)
