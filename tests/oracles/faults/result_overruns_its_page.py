"""A result that ends beyond its page runs on into the next host frame, which is another guest's."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory.guest_access import translate_for
from hvfuzz.machine.addresses import U64, WRITE


def replacement(hv, vcpu, gva, data):
    hpa = translate_for(hv, vcpu, gva & U64, WRITE)
    if hpa is None:
        return False
    hv.host.observer.guest_copy(vcpu, gva, hpa, len(data), True)
    hv.machine.memory.write(hpa, data)
    hv.host.observer.guest_written()
    return True


BUG = Bug(
    name="result-overruns-its-page",
    replaces="hvfuzz.hypervisor.memory.guest_access:raw_copy_to_guest",
    replacement=replacement,
    findings=("fetch/crossing/memory.exchange",),
    trigger="""\
# hvp 1
world pair
memory.populate(dom1, first=0x100, count=1, order=0)
memory.populate(dom2, first=0x100, count=1, order=0)
memory.populate(dom1, first=0x101, count=1, order=0)
memory.exchange(dom1, gfns=[0x40], out=DIRECT+0x100ffc, count=1, start=0)
""",
)
