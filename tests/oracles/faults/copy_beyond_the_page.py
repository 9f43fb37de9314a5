"""A whole page is copied whatever the length: other frames are overwritten."""

from hvfuzz.bugs import Bug


def replacement(hv, vcpu, source, dest, length):
    o = hv.observer
    o.guest_copy(vcpu, -1, source, length, False)
    o.guest_copy(vcpu, -1, dest, length, True)
    hv.machine.memory.copy(dest, source, 4096)


BUG = Bug(
    name="copy-beyond-the-page",
    replaces="hvfuzz.hypervisor.hypercalls.grant.copy:copy_bytes",
    replacement=replacement,
    findings=("host_memory/unannounced/grant.copy",),
    trigger="""\
# hvp 1
world pair
store(dom1, gva=DIRECT+0xff000, size=8, value=0x1122334455667788)
grant.copy(dom1, flags=0, from=0x40, to=0xff, from_offset=8, to_offset=0xff8, length=8)
load(dom2, gva=DIRECT, size=8)
""",
)
