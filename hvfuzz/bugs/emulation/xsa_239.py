"""XSA-239 / CVE-2017-15589: emulation of a register access ignores its size.

Cause: the buffer that a register read passes through was filled for the width of the access, and then used whole: its
other bytes were what the hypervisor had left there.
"""

from hvfuzz.bugs.bug import Bug
from hvfuzz.hypervisor.core.hypervisor import Hypervisor


def fill_slot(hv: Hypervisor, slot: int, value: int, width: int) -> None:
    """Put `width` bytes into the slot, and leave the rest as it is."""
    hv.host.write(slot, value.to_bytes(8, "little")[:width])


BUG = Bug(
    name="xsa-239",
    advisory="XSA-239, CVE-2017-15589",
    title="a narrow register read returns hypervisor memory in the bytes beyond its width",
    replaces="hvfuzz.hypervisor.core.exits:fill_slot",
    replacement=fill_slot,
    findings=("secrets/register/mmio_read", "exits/registers/mmio_read"),
    difficulty=2,
    story=__doc__,
    trigger="""\
# hvp 1
world pair
mmio_read(dom1, device=0, register=SRC, size=1)
""",
)
