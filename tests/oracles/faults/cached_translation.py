"""The Hpa of the argument page is remembered across calls."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import guest_access

ORIGINAL = guest_access.translate_for

CACHE = {}


def replacement(hv, vcpu, gva, acc):
    if gva >> 12 == 0xFFFF880000040:
        page = CACHE.get((vcpu.id, gva >> 12))
        if page is None:
            hpa = ORIGINAL(hv, vcpu, gva, acc)
            if hpa is None:
                return None
            page = CACHE[vcpu.id, gva >> 12] = hpa & ~0xFFF
        return page | gva & 0xFFF
    return ORIGINAL(hv, vcpu, gva, acc)


BUG = Bug(
    name="cached-translation",
    replaces="hvfuzz.hypervisor.memory.guest_access:translate_for",
    replacement=replacement,
    findings=("fetch/translated/console.write",),
    trigger="""\
# hvp 1
world pair
console.write(dom1, text=DIRECT+0x40000, length=8)
pte(dom1, gva=DIRECT+0x40000, level=1, entry=0x41063)
invlpg(dom1, gva=DIRECT+0x40000)
console.write(dom1, text=DIRECT+0x40000, length=8)
""",
)
