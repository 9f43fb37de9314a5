"""64 bytes at least are copied: the frame behind the granted one is overwritten."""

from hvfuzz.bugs import Bug


def replacement(hv, vcpu, source, dest, length):
    o = hv.observer
    o.guest_copy(vcpu, -1, source, length, False)
    o.guest_copy(vcpu, -1, dest, length, True)
    hv.machine.memory.copy(dest, source, max(length, 64))


BUG = Bug(
    name="copy-into-ungranted",
    replaces="hvfuzz.hypervisor.hypercalls.grant.copy:copy_bytes",
    replacement=replacement,
    findings=("host_memory/unannounced/grant.copy",),
    trigger="""\
# hvp 1
world pair
r0 = grant.create(dom2, gfn=0x50, to=dom1, rights=R|W)
store(dom1, gva=DIRECT+0x40008, size=8, value=0xbad)
grant.copy(dom1, flags=DEST_REF, from=0x40, to_domain=dom2, to=r0, to_offset=0xff8, length=8)
load(dom2, gva=DIRECT+0x51000, size=8)
""",
)
