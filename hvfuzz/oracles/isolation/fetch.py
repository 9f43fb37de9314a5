"""Guest memory as an argument: each word fetched once, from where a guest may point, for a caller that may ask.

A word that is fetched twice can differ the second time: another virtual CPU writes it in between. A guest may pass
overlapping arguments, so that an honest call reads a word once for each of them: two fetches of a word count as a
double fetch if they do not belong to two arguments.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, ClassVar, Final

from hvfuzz.abi.limits import STRUCT_MAX
from hvfuzz.guest.run.interpreter import HostBusy
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, READ, U64, WORD, WRITE
from hvfuzz.machine.cpu.core import Reentered
from hvfuzz.machine.cpu.vmcs import RAX, Reg, Saved
from hvfuzz.machine.mmu.ept import EP4TA
from hvfuzz.machine.mmu.paging import CR3_PCID, CR4_PCIDE
from hvfuzz.oracles.contract.spec import BY_NAME, valid_range
from hvfuzz.oracles.framework.oracle import Oracle, Rules
from hvfuzz.oracles.scene.running_call import NO_GVA, Bytes
from hvfuzz.oracles.scene.scene import Scene
from hvfuzz.oracles.shadow.guest_walk import arrivals

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

CPL: Final = int(Saved.CPL)
RDI: Final = int(Reg.RDI)
ENTRY: Final = struct.Struct("<QQQQ")
"""An entry of a multicall: number, address of the struct, status, result."""
MULTICALL: Final = BY_NAME["multicall"].number
ARRAY_MAX: Final = 512
"""Bytes of the longest array that a call takes, where its declaration names no bound."""
WRITTEN: Final = "out"
"""The field that points to what a call only writes."""
Piece = tuple[int, int]
"""(gva, size)"""


class Fetch(Oracle):
    """No double fetch, no unvalidated address, no caller without the privilege, no re-entrancy."""

    name = "fetch"
    rules: ClassVar[Rules] = {
        "twice": "no word of guest memory is fetched twice for one argument of a call",
        "translated": "a copy at a guest's address goes where the guest's tables lead, or did, with the right it needs",
        "asked": "the call is the one that the caller names, and its struct is read where the caller says",
        "crossing": "a copy at a guest's address lies in one page: what follows it in memory may be anybody's",
        "unvalidated": "every guest copy lies where a guest may point: canonical, no wrap, not in the hole",
        "privilege": "no call from user mode, or of a privileged kind by an ordinary domain, gets beyond dispatch",
        "version": "no call that is newer than the domain's version gets beyond dispatch",
        "re-entrancy": "no exit is handled within the handling of another",
    }

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        super().__init__(scene, shadow)
        self._privileged = tuple(config.privileged for config in scene.world.domains)
        self._calls = scene.calls
        self._tlb = scene.machine.tlb

    # Exits.

    def reentrant_exit(self, vcpu: VCpu) -> None:
        """An exit is to be handled while another one is."""
        self.report("re-entrancy", f"exit of vCPU {vcpu.index} of dom{vcpu.domain} while the last one is handled")

    def host_exception(self, fault: BaseException) -> None:
        """A device or a step that exits again, from within, is refused by the vCPU or by whoever runs it."""
        if isinstance(fault, (HostBusy, Reentered)):
            self.report("re-entrancy", str(fault) or "an exit within the handling of another")

    # Calls.

    def call_started(self, vcpu: VCpu, declaration: Any, args: Any) -> None:
        """A call passed dispatch, or was refused by it (then `args` is None)."""
        pieces = self._calls.current.struct
        if pieces or declaration is not None:
            self._judge_asked(declaration, pieces)
        if args is None:
            return
        ring = vcpu.cpl or vcpu.vmcs.saved[CPL]
        if ring:
            self.report("privilege", f"a call from ring {ring} of dom{vcpu.domain}")
        if declaration.privileged and not self._privileged[vcpu.domain]:
            self.report("privilege", f"a privileged call by dom{vcpu.domain}")
        if declaration.since > self.scene.calls.current.version:
            self.report("version", f"a call of version {declaration.since} by dom{vcpu.domain}")

    def _judge_asked(self, declaration: Any, pieces: list[Bytes]) -> None:
        """Compare the call, and where its struct was read, with what the caller put into registers or into an entry."""
        number, pointer = self._asked()
        if declaration is not None and declaration.number != number:
            self.report("asked", f"call {declaration.number:#x} is made where the caller asks for {number:#x}")
        # What is read again is judged as that.
        for gva, data in pieces[:2]:
            if gva != pointer & U64:
                self.report("asked", f"a struct is read at {gva:#x}, where the caller's is at {pointer & U64:#x}")
                return
            pointer = gva + len(data)

    def _asked(self) -> tuple[int, int]:
        """Number and struct of the call that begins now; (-1, -1) if nobody asks for one."""
        calls = self._calls
        outer = calls.current.outer
        if outer is None or outer is calls.idle:
            return calls.left[RAX], calls.left[RDI]
        data = b"".join([piece for _, piece in outer.reads])
        entries = ENTRY.iter_unpack(data[: len(data) // ENTRY.size * ENTRY.size])
        # An entry that would nest is refused before it is a call.
        asked = [(number, pointer) for number, pointer, _, _ in entries if number != MULTICALL]
        return asked[outer.begun - 1] if outer.begun <= len(asked) else (-1, -1)

    def unusual_copies(self, vcpu: VCpu, declaration: Any, args: Any) -> None:
        """Judge what the call fetched."""
        call = self.scene.calls.current
        self._judge([(gva, len(data)) for gva, data in call.struct + call.reads], declaration, args)

    def _judge(self, pieces: list[Piece], declaration: Any, args: Any) -> None:
        """Report a word that was fetched more often than there are arguments that it belongs to."""
        end = -1
        for gva, size in sorted(pieces):
            if gva < end:
                times = _covering(pieces, gva)
                sources = [(pieces[0][0], STRUCT_MAX)]
                if args is not None:
                    # An array is read from the element that an index names; nobody else's field is called that.
                    skipped = WORD * getattr(args, "start", 0)
                    for field in declaration.fields:
                        element = field.kind.element
                        if element is not None and field.name != WRITTEN:
                            size = field.kind.limit * element.width or ARRAY_MAX
                            sources.append(((getattr(args, field.name) + skipped) & U64, size))
                if times > _covering(sources, gva):
                    self.report("twice", f"gva {gva:#x} is fetched {times} times")
                    return
            end = max(end, gva + size)

    def guest_copy(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        """A copy is about to be made: nearly always, the TLB holds the translation that it is made with."""
        pcid = vcpu.cr3 & CR3_PCID if vcpu.cr4 & CR4_PCIDE else 0
        entry = self._tlb.combined.get((vcpu.vpid, pcid, vcpu.eptp & EP4TA, gva >> PAGE_SHIFT))
        if entry is None or entry[0] | gva & PAGE_MASK != hpa or (write and not entry[1] & WRITE):
            self._judge_translation(vcpu, gva, hpa, size, write)

    def _judge_translation(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        """Ask the tables; addresses that no guest may name are judged elsewhere, and frames have no address."""
        if gva == NO_GVA or not valid_range(gva, size):
            return
        tlb = self._tlb
        if hpa not in arrivals(self.scene.machine, vcpu, gva, WRITE if write else READ):
            # All pages of a copy are translated before the first is written, which may be a table of the next. Where
            # a cache is full, it may have held another translation until the last page was looked for.
            fullest = max(len(tlb.combined), len(tlb.structures.combined))
            if self._continues(gva) or fullest >= tlb.capacity > 0:
                return
            way = "to" if write else "from"
            self.report("translated", f"gva {gva:#x} of dom{vcpu.domain} is taken for {hpa:#x}: a copy {way} there")

    def _continues(self, gva: int) -> bool:
        """Whether a write at `gva` goes on where the last one of the call ended."""
        writes = self.scene.calls.current.writes
        return bool(writes) and writes[-1][0] + len(writes[-1][1]) == gva

    def foreign_copy(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        """A copy is about to be made that is not just within a frame of the domain's own."""
        if gva != NO_GVA and (gva & PAGE_MASK) + size > PAGE_SIZE and valid_range(gva, size):
            way = "to" if write else "from"
            self.report("crossing", f"{size} bytes {way} gva {gva:#x} of dom{vcpu.domain} in one go, at {hpa:#x}")

    def invalid_copy(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        """A copy is about to be made at an address that no guest may name."""
        way = "to" if write else "from"
        self.report("unvalidated", f"{size} bytes {way} gva {gva:#x} on behalf of dom{vcpu.domain}")


def _covering(pieces: list[Piece], gva: int) -> int:
    """How many of the pieces hold the byte at `gva`."""
    return sum(start <= gva < start + size for start, size in pieces)
