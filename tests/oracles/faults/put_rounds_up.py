"""The copy is done in words of 64 bytes: what is behind the data in the host's buffer goes along."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import guest_access
from hvfuzz.machine.clock import Cost

ORIGINAL = guest_access.write_at

STALE = b"\x5a" * 64


def replacement(hv, vcpu, gva, hpa, data):
    machine = hv.machine
    machine.clock.cycles += Cost.COPY_PER_64B * ((len(data) + 63) >> 6)
    hv.host.observer.guest_copy(vcpu, gva, hpa, len(data), True)
    room = 4096 - (hpa & 4095)
    machine.memory.write(hpa, (data + STALE[: -len(data) % 64])[:room])


BUG = Bug(
    name="put-rounds-up",
    replaces="hvfuzz.hypervisor.memory.guest_access:write_at",
    replacement=replacement,
    findings=("host_memory/unannounced/memory.exchange",),
    trigger="""\
# hvp 1
world pair
store(dom1, gva=DIRECT+0x10200, size=8, value=0x60)
memory.exchange(dom1, gfns=DIRECT+0x10200, out=DIRECT+0x40000, count=1, start=0)
load(dom1, gva=DIRECT+0x40008, size=8)
""",
)
