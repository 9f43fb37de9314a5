"""Boot goes by a DMAR table whose checksum is wrong: no firmware of this machine has one, so no program shows it."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import rmrr
from hvfuzz.machine.vtd import dmar

ORIGINAL = rmrr.read_regions


def replacement(host, address):
    length = dmar.HEADER.unpack(host.read(address, dmar.HEADER.size))[1]
    if dmar.HEADER.size <= length <= host.memory.size - address:
        table = host.read(address, length)
        host.write(address + 9, bytes([table[9] - sum(table) & 0xFF]))
    return ORIGINAL(host, address)


BUG = Bug(
    name="firmware-sum-ignored",
    replaces="hvfuzz.hypervisor.memory.rmrr:read_regions",
    replacement=replacement,
    findings=("specification/firmware/boot",),
    trigger="""\
# hvp 1
world pair
pause(dom1)
""",
)
