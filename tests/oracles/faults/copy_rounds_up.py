"""Whole words are copied: up to 7 bytes too many."""

from hvfuzz.bugs import Bug


def replacement(hv, vcpu, source, dest, length):
    o = hv.observer
    o.guest_copy(vcpu, -1, source, length, False)
    o.guest_copy(vcpu, -1, dest, length, True)
    hv.machine.memory.copy(dest, source, length + 7 & ~7)


BUG = Bug(
    name="copy-rounds-up",
    replaces="hvfuzz.hypervisor.hypercalls.grant.copy:copy_bytes",
    replacement=replacement,
    findings=("host_memory/unannounced/grant.copy",),
    trigger="""\
# hvp 1
world pair
store(dom1, gva=DIRECT+0x40000, size=8, value=0x1122334455667788)
grant.copy(dom1, flags=0, from=0x40, to=0x41, length=1)
load(dom1, gva=DIRECT+0x41000, size=8)
""",
)
