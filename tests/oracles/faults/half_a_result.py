"""Page by page: the first part is written though the second is not writable."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.addresses import U64


def replacement(hv, vcpu, gva, data):
    done = 0
    for start, length in guest_access._pieces(gva & U64, len(data)):
        hpa = guest_access.translate_for(hv, vcpu, start, 2)
        if hpa is None:
            return False
        guest_access.write_at(hv, vcpu, start, hpa, data[done : done + length])
        done += length
    return True


BUG = Bug(
    name="half-a-result",
    replaces="hvfuzz.hypervisor.memory.guest_access:raw_copy_to_guest",
    replacement=replacement,
    findings=("specification/written/multicall",),
    trigger="""\
# hvp 1
world pair
tlb(dom1, capacity=0)
store(dom1, gva=DIRECT+0x40fd8, size=8, value=0x12)
store(dom1, gva=DIRECT+0x40fe0, size=8, value=0xffff880000051000)
store(dom1, gva=DIRECT+0x40ff8, size=8, value=0x12)
store(dom1, gva=DIRECT+0x40fd0, size=8, value=0x5555)
store(dom1, gva=DIRECT+0x51000, size=8, value=0x20018)
store(dom1, gva=DIRECT+0x51008, size=8, value=0x41)
store(dom1, gva=DIRECT+0x51010, size=8, value=0x100000001)
multicall(dom1, entries=DIRECT+0x40fe0, count=1)
store(dom1, gva=DIRECT+0x40fe8, size=8, value=0x12)
store(dom1, gva=DIRECT+0x40ff0, size=8, value=0xffff880000051000)
store(dom1, gva=DIRECT+0x40ff8, size=8, value=0x7777)
multicall(dom1, entries=DIRECT+0x40fe8, count=1)
load(dom1, gva=DIRECT+0x40ff8, size=8)
""",
)
