"""Domain 2's page 0xf0 is domain 1's."""

from hvfuzz.bugs import Bug
from hvfuzz.hypervisor.core import boot

ORIGINAL = boot.write_guest_tables


def replacement(hv, domain):
    ORIGINAL(hv, domain)
    if domain.id == 2:
        e, _, _ = hv.domains[1].stage2.lookup(0xF0)
        _, _, a = domain.stage2.lookup(0xF0)
        hv.host.write64(a, e)


BUG = Bug(
    name="boot-shares-a-frame",
    replaces="hvfuzz.hypervisor.core.boot:write_guest_tables",
    replacement=replacement,
    findings=("specification/page/boot",),
    trigger="""\
# hvp 1
world pair
load(dom2, gva=DIRECT+0xf0000, size=8)
""",
)
