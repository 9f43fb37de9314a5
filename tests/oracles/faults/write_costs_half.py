"""What the hypervisor writes to guest memory takes half of its time: the clock does not know of all that is done."""

from hvfuzz.bugs import Bug
from hvfuzz.machine.clock import Cost


def replacement(hv, vcpu, gva, hpa, data):
    hv.machine.clock.cycles += Cost.COPY_PER_64B * (len(data) + 63 >> 7)
    hv.host.observer.guest_copy(vcpu, gva, hpa, len(data), True)
    hv.machine.memory.write(hpa, data)
    hv.host.observer.guest_written()


BUG = Bug(
    name="write-costs-half",
    replaces="hvfuzz.hypervisor.memory.guest_access:write_at",
    replacement=replacement,
    findings=("work/time/memory.exchange",),
    trigger="""\
# hvp 1
world pair
memory.exchange(dom1, gfns=[0x60, 0x61], out=DIRECT+0x40000, count=2, start=0)
""",
)
