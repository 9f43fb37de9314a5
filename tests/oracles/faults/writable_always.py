"""Whether a result can be written is found out when it is."""

from hvfuzz.bugs import Bug


def replacement(hv, vcpu, gva, size):
    return True


BUG = Bug(
    name="writable-always",
    replaces="hvfuzz.hypervisor.memory.guest_access:raw_writable",
    replacement=replacement,
    findings=("specification/status/memory.exchange",),
    trigger="""\
# hvp 1
world pair
pte(dom1, gva=DIRECT+0x41000, level=1, entry=0x41001)
invlpg(dom1, gva=DIRECT+0x41000)
memory.exchange(dom1, gfns=[0x60], out=DIRECT+0x41000, count=1, start=0)
""",
)
