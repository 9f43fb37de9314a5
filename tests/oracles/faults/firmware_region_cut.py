"""Boot takes the last page of a region that firmware reserves for what it does not end with."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.memory import rmrr

ORIGINAL = rmrr.read_regions


def replacement(host, address):
    regions = ORIGINAL(host, address)
    return {bdf: region[:-1] if len(region) > 2 else region for bdf, region in regions.items()}


BUG = Bug(
    name="firmware-region-cut",
    replaces="hvfuzz.hypervisor.memory.rmrr:read_regions",
    replacement=replacement,
    findings=("specification/firmware/boot",),
    trigger="""\
# hvp 1
world pair
pause(dom1)
""",
)
