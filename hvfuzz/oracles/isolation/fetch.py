"""Arguments in guest memory: each word is fetched once, from a valid address, for a caller with the privilege.

A word that is fetched twice can differ the second time, because another vCPU may write it in between. Arguments of a
guest may overlap, and then a correct call reads a word once for each of them. So two fetches of a word count as a
double fetch only if they do not belong to two arguments.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, ClassVar, Final

from hvfuzz.abi.limits import STRUCT_MAX
from hvfuzz.guest.run.interpreter import HostBusy
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, U64, WORD, WRITE
from hvfuzz.machine.cpu.registers import RAX, Reg, Saved
from hvfuzz.machine.cpu.vmcs import ExitReason
from hvfuzz.machine.cpu.vmx_transitions import Reentered
from hvfuzz.oracles.contract.spec import BY_NAME, valid_range
from hvfuzz.oracles.framework.fault_origin import fault_text
from hvfuzz.oracles.framework.oracle import Oracle, Rules
from hvfuzz.oracles.principal.copy_ends import CopyEnds
from hvfuzz.oracles.principal.translations import Translations, tlb_key
from hvfuzz.oracles.scene.excuses import OVERLAPPING, RING
from hvfuzz.oracles.scene.running_call import NO_GVA, Bytes
from hvfuzz.oracles.scene.scene import Scene

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

CPL: Final = int(Saved.CPL)
RDI: Final = int(Reg.RDI)
ENTRY: Final = struct.Struct("<QQQQ")
"""Entry of a multicall: number, address of the struct, status, result."""
EPT_VIOLATION: Final = ExitReason.EPT_VIOLATION
MULTICALL: Final = BY_NAME["multicall"].number
ARRAY_MAX: Final = 512
"""Bytes of the longest array of any call; used where the declaration gives no bound."""
WRITTEN: Final = "out"
"""Name of the field that points to memory that a call only writes."""
Piece = tuple[int, int]
"""(gva, size)"""


class Fetch(Oracle):
    """No double fetch, no unvalidated address, no caller without the privilege, no re-entrancy."""

    name = "fetch"
    rules: ClassVar[Rules] = {
        "twice": "no word of guest memory is fetched twice for one argument of a call",
        "translated": "a copy goes where the tables of the vCPU that exits, or cached entries of them, lead",
        "asked": "the call has the number, and reads its struct at the address, that the caller passed",
        "crossing": "a copy at a guest address stays within one page: the next frame may belong to another domain",
        "unvalidated": "every guest copy is at a valid address: canonical, not wrapping, not in the hypervisor's hole",
        "privilege": "dispatch refuses calls from user mode, and privileged calls by unprivileged domains",
        "version": "dispatch refuses calls that are newer than the ABI version of the domain",
        "re-entrancy": "no exit is handled while another one is being handled",
    }

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        super().__init__(scene, shadow)
        self._privileged = tuple(config.privileged for config in scene.world.domains)
        self._calls = scene.calls
        self._translations = Translations(scene)
        self._cached = scene.machine.tlb.combined
        self._ends = CopyEnds(scene, shadow)
        self._reached = (NO_GVA, 0)
        """(page, frame) of the last copy of this exit whose translation is right by the guest's tables."""

    # Exits.

    def reset(self) -> None:
        """Forget the last exit."""
        self._reached = (NO_GVA, 0)
        self._translations.reset()

    def exit_started(self, vcpu: VCpu) -> None:
        """Forget where the last exit has copied."""
        self._reached = (NO_GVA, 0)
        self._translations.exit_started()

    def reentrant_exit(self, vcpu: VCpu) -> None:
        """Report the inner exit."""
        self.report("re-entrancy", f"vCPU {vcpu.index} of dom{vcpu.domain} exits while another exit is being handled")

    def host_exception(self, fault: BaseException) -> None:
        """The vCPU, or the interpreter, refuses an exit from within another one by these exceptions."""
        if isinstance(fault, (HostBusy, Reentered)):
            self.report("re-entrancy", fault_text(fault) or "a vCPU exits while another exit is being handled")

    # Calls.

    def call_started(self, vcpu: VCpu, declaration: Any, args: Any) -> None:
        """Check the caller and the struct of a call."""
        self._translations.keep()
        pieces = self._calls.current.struct
        if pieces or declaration is not None:
            self._judge_asked(declaration, pieces)
        if args is None:
            return
        ring = vcpu.cpl or vcpu.vmcs.saved[CPL]
        if ring:
            self.report("privilege", f"{declaration.name} was accepted from ring {ring} of dom{vcpu.domain}")
        if declaration.privileged and not self._privileged[vcpu.domain]:
            self.report("privilege", f"the privileged call {declaration.name} was accepted from dom{vcpu.domain}")
        if declaration.since > self.scene.calls.current.version:
            self.report(
                "version", f"{declaration.name}, of version {declaration.since}, was accepted from dom{vcpu.domain}"
            )

    def _judge_asked(self, declaration: Any, pieces: list[Bytes]) -> None:
        """Compare the number and the address of the struct with what the caller passed in registers or in an entry."""
        number, pointer = self._asked()
        if declaration is not None and declaration.number != number:
            self.report("asked", f"the hypervisor runs call {declaration.number:#x}, the caller asked for {number:#x}")
        # Pieces that are read again are judged by the rule `twice`.
        for gva, data in pieces[:2]:
            if gva != pointer & U64:
                self.report("asked", f"the struct is read at {gva:#x}, the caller passed {pointer & U64:#x}")
                return
            pointer = gva + len(data)

    def _asked(self) -> tuple[int, int]:
        """(number, address of the struct) that the caller passed for the present call; (-1, -1) if it passed none."""
        calls = self._calls
        outer = calls.current.outer
        if outer is None or outer is calls.idle:
            return calls.left[RAX], calls.left[RDI]
        data = b"".join([piece for _, piece in outer.reads])
        entries = ENTRY.iter_unpack(data[: len(data) // ENTRY.size * ENTRY.size])
        # A nested multicall is refused before it becomes a call.
        asked = [(number, pointer) for number, pointer, _, _ in entries if number != MULTICALL]
        return asked[outer.begun - 1] if outer.begun <= len(asked) else (-1, -1)

    def unusual_copies(self, vcpu: VCpu, declaration: Any, args: Any) -> None:
        """Look for double fetches of the call."""
        call = self.scene.calls.current
        self._check_twice([(gva, len(data)) for gva, data in call.struct + call.reads], declaration, args)

    def _check_twice(self, pieces: list[Piece], declaration: Any, args: Any) -> None:
        """Report a word that was fetched more often than the number of arguments that contain it."""
        end = -1
        for gva, size in sorted(pieces):
            if gva < end:
                times = _covering(pieces, gva)
                sources = [(pieces[0][0], STRUCT_MAX)]
                if args is not None:
                    # An array is read from the element `start` on, in the calls that have such a field.
                    skipped = WORD * getattr(args, "start", 0)
                    for field in declaration.fields:
                        element = field.kind.element
                        if element is not None and field.name != WRITTEN:
                            size = field.kind.limit * element.width or ARRAY_MAX
                            sources.append(((getattr(args, field.name) + skipped) & U64, size))
                if times > _covering(sources, gva):
                    self.report("twice", f"the word at gva {gva:#x} is fetched {times} times")
                    return
                if times > 1:
                    self.scene.excused(OVERLAPPING)
            end = max(end, gva + size)

    def guest_copy(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        """Check the translation of a copy. Nearly always the TLB holds it."""
        translations = self._translations
        key = tlb_key(vcpu, gva)
        entry = self._cached.get(key)
        if gva == NO_GVA:
            self._judge_end(vcpu, hpa, write)
        elif (
            entry is None
            or entry[0] | gva & PAGE_MASK != hpa
            or (write and not entry[1] & WRITE)
            or not (translations.known(key, entry) or translations.counts(vcpu, gva, hpa, write, key, entry))
        ) and valid_range(gva, size):
            self._judge_translation(vcpu, gva, hpa, write)
        if write and not gva + size & PAGE_MASK:
            translations.page_filled(vcpu, gva, size)
        translations.keep()

    def _judge_translation(self, vcpu: VCpu, gva: int, hpa: int, write: bool) -> None:
        """Compare with the guest's tables. Invalid addresses are judged by `unvalidated`."""
        place = gva >> PAGE_SHIFT, hpa >> PAGE_SHIFT
        if self._translations.lead(vcpu, gva, hpa, write):
            self._reached = place
        # The ring of queued writes is translated once for its three copies, and may be a table for itself.
        elif self._calls.exit.reason is EPT_VIOLATION and place == self._reached:
            self.scene.excused(RING)
        else:
            way = "to" if write else "from"
            whose = f"vCPU {vcpu.index} of dom{vcpu.domain}"
            self.report(
                "translated", f"gva {gva:#x} of {whose} is wrongly translated to hpa {hpa:#x} for a copy {way} it"
            )

    def _judge_end(self, vcpu: VCpu, hpa: int, write: bool) -> None:
        """Compare a copy without a guest address with the page or grant that the struct of `grant.copy` names."""
        end = self._ends.named(vcpu, write)
        if end is None or end.hpa != hpa:
            way, where = ("to", "destination") if write else ("from", "source")
            named = (
                f"dom{vcpu.domain} names no {where}" if end is None else f"the {where} that it names is {end.hpa:#x}"
            )
            self.report("translated", f"a copy {way} {hpa:#x} for vCPU {vcpu.index} of dom{vcpu.domain}: {named}")

    def foreign_copy(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        """Check that the copy stays within one page."""
        if gva != NO_GVA and (gva & PAGE_MASK) + size > PAGE_SIZE and valid_range(gva, size):
            way = "to" if write else "from"
            self.report(
                "crossing",
                f"one copy of {size} bytes {way} gva {gva:#x} of dom{vcpu.domain}, at {hpa:#x}, crosses a page",
            )

    def invalid_copy(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        """Report a copy at an address that no guest may name."""
        way = "to" if write else "from"
        self.report(
            "unvalidated", f"the hypervisor copies {size} bytes {way} gva {gva:#x} on behalf of dom{vcpu.domain}"
        )


def _covering(pieces: list[Piece], gva: int) -> int:
    """Number of the pieces that contain the byte at `gva`."""
    return sum(start <= gva < start + size for start, size in pieces)
