"""Only kernel addresses are taken for valid."""

from hvfuzz.bugs import Bug
from hvfuzz.machine.addresses import U64


def replacement(gva, size):
    return size == 0 or 0xFFFF_8800_0000_0000 <= gva <= gva + size - 1 <= U64


BUG = Bug(
    name="low-half-refused",
    replaces="hvfuzz.hypervisor.memory.guest_access:guest_range_ok",
    replacement=replacement,
    findings=("specification/status/console.write",),
    trigger="""\
# hvp 1
world pair
console.write(dom1, text=0x400000, length=16)
""",
)
