"""Where the two ends of `grant.copy` lie, which name frames and no guest virtual addresses.

An end is a page of the caller, which the oracle's own walk of stage 2 finds, or a grant entry. Both are named by the
struct, as it was fetched. Helper of the oracles `fetch` and `ownership`; reports nothing itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from hvfuzz.abi.limits import HEADER_SIZE, SELF
from hvfuzz.machine.addresses import PAGE_SHIFT, READ, WRITE
from hvfuzz.oracles.contract.spec import BY_NAME, decode
from hvfuzz.oracles.shadow.stage2_walk import guest_physical

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

COPY: Final = BY_NAME["grant.copy"].number
SOURCE_REF: Final = 1
DEST_REF: Final = 2


class CopyEnd(NamedTuple):
    """An end of the running `grant.copy`: where it begins, and the caller's gfn that names it (-1: a grant does)."""

    hpa: int
    gfn: int


class CopyEnds:
    """Finds the ends of the copy that runs on one machine."""

    __slots__ = ("_calls", "_memory", "_shadow")

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        self._calls: Final = scene.calls
        self._memory: Final = scene.machine.memory
        self._shadow: Final = shadow

    def named(self, vcpu: VCpu, write: bool) -> CopyEnd | None:
        """The source, or (`write`) the destination, of the copy that `vcpu` makes now.

        None if it makes none, or may not access what it names.
        """
        call = self._calls.current
        if call.declaration is None or call.declaration.number != COPY:
            return None
        data = b"".join([piece for _, piece in call.struct])
        if len(data) <= HEADER_SIZE:
            return None
        args = decode(COPY, data[:HEADER_SIZE], data[HEADER_SIZE:])
        access = WRITE if write else READ
        by_ref = args.flags & (DEST_REF if write else SOURCE_REF)
        place, offset = (args.to, args.to_offset) if write else (args.from_, args.from_offset)
        if not by_ref:
            hpa = guest_physical(self._memory, vcpu.eptp, (place << PAGE_SHIFT) + offset, access)
            return None if hpa is None else CopyEnd(hpa, place)
        granter = args.to_domain if write else args.from_domain
        domains = self._shadow.domains
        number = vcpu.domain if granter == SELF else granter
        if number >= len(domains) or place >= len(domains[number].grants):
            return None
        # Bypasses `HostArray`: an oracle's access must not count as work of the hypervisor.
        entry = list.__getitem__(domains[number].grants, place)
        if entry is None or entry.to != vcpu.domain or not entry.rights & access:
            return None
        return CopyEnd((entry.frame << PAGE_SHIFT) + offset, -1)
