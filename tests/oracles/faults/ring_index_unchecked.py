"""The index of the ring of queued writes is used as it is: CVE-2019-14821."""

from hvfuzz.bugs import Bug


def replacement(first, last):
    return None if (last + 1) % 16 == first else last


BUG = Bug(
    name="ring-index-unchecked",
    replaces="hvfuzz.hypervisor.devices.coalesced_mmio:free_slot",
    replacement=replacement,
    findings=("exits/ring/mmio_write",),
    trigger="""\
# hvp 1
world pair
store(dom1, gva=DIRECT+0x1f004, size=4, value=64)
mmio_write(dom1, device=COALESCED, register=DST, size=8, value=7)
""",
)
