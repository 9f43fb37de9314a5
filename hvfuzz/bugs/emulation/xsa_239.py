"""XSA-239 / CVE-2017-15589: an emulated register read leaks hypervisor memory.

Cause: the buffer for the result of a register read was filled only up to the width of the access and then used whole,
so the other bytes held old contents of the hypervisor's stack.
"""

from hvfuzz.bugs.bug import Bug
from hvfuzz.hypervisor.core.hypervisor import Hypervisor


def fill_slot(hv: Hypervisor, slot: int, value: int, width: int) -> None:
    """Write only `width` bytes of the slot."""
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
