"""Follows what each frame should hold, write by write, and judges who wrote it. Helper of the oracle `contents`.

It acts in audited runs only, because it hooks every write of memory. Each write follows an announcement, which tells
whose it is:

    memory_access of a vCPU or a device    -> the domain of the vCPU, or the one that has the device
    guest_copy of the hypervisor           -> the domain of the vCPU whose exit is being handled
    host_access of the hypervisor          -> the hypervisor itself
    no announcement                        -> a page walk, if accessed or dirty flags alone changed

A write by one who may not write there is a finding at once. At the end of each op the frames that were written are
compared with what they should hold: a difference came past every announcement and every method of memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hvfuzz.hypervisor.memory.allocator import HEAP_HEADER
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.hypervisor.memory.table_pool import POISON
from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, READ, WORD, WORDS_PER_PAGE, WRITE
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.physical_memory import ZERO_PAGE, PhysicalMemory
from hvfuzz.oracles.contents.announcements import NOTHING, Announcements, within
from hvfuzz.oracles.contents.contents import CONTENTS
from hvfuzz.oracles.host.heap_headers import CONTROL
from hvfuzz.oracles.host.hooked_hardware import recorded_memory
from hvfuzz.oracles.isolation.entitlements import Entitlements
from hvfuzz.oracles.principal.copy_ends import CopyEnds
from hvfuzz.oracles.scene.running_call import NO_GVA
from hvfuzz.oracles.shadow.changes import DMA

if TYPE_CHECKING:
    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

FREE: Final = int(FrameState.FREE)
HYPERVISOR: Final = int(FrameState.HYPERVISOR)
TABLE: Final = int(FrameState.TABLE)
POOL: Final = int(FrameState.POOL)
RESERVED: Final = int(FrameState.RESERVED)
DOMAINS: Final = (int(FrameState.OWNED), int(FrameState.SHARED))
"""States of a domain's frames."""
FLAGS: Final = 1 << 5 | 1 << 6
"""Accessed and dirty, in entries of the guest's page tables (SDM Vol. 3A, 4.8)."""
POISONED: Final = POISON.to_bytes(WORD, "little") * WORDS_PER_PAGE
SHOWN: Final = 16
"""Bytes that a message shows, at most."""
RULES: Final = {HYPERVISOR: "host", TABLE: "host", FREE: "free", POOL: "free", RESERVED: "reserved"}
"""State of a frame -> the rule that a write breaks; "foreign" for the frames of domains."""


class MemoryModel:
    """Hooks the memory of one machine, and reports the rules of `contents` but for those of each run."""

    __snapshot_leaf__ = True
    oracle = CONTENTS

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        self._scene: Final = scene
        self._shadow: Final = shadow
        self._memory: Final = scene.machine.memory
        self._calls: Final = scene.calls
        self._entitlements: Final = Entitlements(scene, shadow)
        self._ends: Final = CopyEnds(scene, shadow)
        self._recorded: Final = recorded_memory(scene.guarded(self.oracle, self._written))
        self._kinds: Final = scene.owner_and_state
        self._own: Final = scene.own_frame
        self._inner: Any = None
        """The observer of accesses beneath this one."""
        self._listener: Final = self._memory_access
        self._first_heap: Final = scene.frame_words + self._memory.frames + WORDS_PER_PAGE - 1 >> 9
        """First frame behind the control area and the frame table."""
        self._expected: dict[int, bytearray] = {}
        """Hfn -> what it should hold, for each frame that was written in this run."""
        self._told: Final = Announcements()
        self._pending: dict[int, tuple[str, str]] = {}
        """Hfn -> (rule, message) of a write that is wrong, unless the frame is freed or allocated later in the op."""
        self._given: set[int] = set()
        """Frames that were allocated in this op."""

    def hook(self, on: bool) -> None:
        """Follow each write from now on, or stop; memory changes its class, see `hooked_hardware`."""
        machine = self._scene.machine
        self._memory.__class__ = self._recorded if on else PhysicalMemory
        if on and machine.access_observer is not self._listener:
            self._inner, machine.access_observer = machine.access_observer, self._listener
        elif not on and machine.access_observer is self._listener:
            machine.access_observer = self._inner

    def reset(self) -> None:
        """Forget the run."""
        self._expected.clear()
        self._told.forget()
        self._pending.clear()
        self._given.clear()

    def host_exception(self, fault: BaseException) -> None:
        """The op does not end, so its memory is not compared."""

    # Announcements.

    def _memory_access(self, initiator: Any, hpa: int, size: int, access: int) -> None:
        """A vCPU or a device is about to access memory."""
        if access == WRITE:
            self._told.accessor, self._told.access = initiator, (hpa, hpa + size)
        if self._inner is not None:
            self._inner(initiator, hpa, size, access)

    def race_started(self, vcpu: VCpu) -> None:
        """What was announced is written after the race, or was before."""
        self._told.put_aside()

    def race_finished(self, vcpu: VCpu) -> None:
        """What was announced before the race may be written now."""
        self._told.take_up()

    def exit_started(self, vcpu: VCpu) -> None:
        """What the guest was about to write is written."""
        self._told.access = self._told.host = NOTHING

    def exit_finished(self, vcpu: VCpu) -> None:
        """What the hypervisor was about to write is written."""
        self._told.copy = self._told.host = NOTHING

    def host_access(self, hpa: int, size: int, write: bool) -> None:
        """The hypervisor is about to write by its own mapping."""
        if write:
            self._told.host = (hpa, hpa + size)

    def guest_copy(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        """The hypervisor is about to copy for `vcpu`, whose exit it is."""
        number = vcpu.domain
        frames = range(hpa >> PAGE_SHIFT, (hpa + size - 1 >> PAGE_SHIFT) + 1)
        allowed = [hfn for hfn in frames if self._may_copy(vcpu, gva, hfn, write)]
        if write:
            self._told.copy, self._told.copied_for, self._told.copied_to = (hpa, hpa + size), number, allowed
            return
        for hfn in frames:
            if hfn not in allowed and self._scene.frame_word(hfn) >> 8 & 0xFF in DOMAINS:
                what = f"reads {size} bytes of {self._scene.describe(hfn)} at offset {hpa & PAGE_MASK:#x}"
                self._report("taken", f"the hypervisor, in an exit of dom{number}, {what}")

    def frame_allocated(self, hfn: int, owner: int, state: int) -> None:
        """The hypervisor may clear the frame, or had to write its header."""
        self._given.add(hfn)
        self._pending.pop(hfn, None)

    def frame_freed(self, hfn: int) -> None:
        """The hypervisor had to clear the frame."""
        self._pending.pop(hfn, None)

    # Writes.

    def _written(self, hpa: int, data: bytes) -> None:
        """Judge a write that was just made, and apply it to the model."""
        end = hpa + len(data)
        # A write lies in one frame, but for a scrubbed block, the frame table, and what runs beyond its page.
        while hpa < end:
            size = min(end - hpa, PAGE_SIZE - (hpa & PAGE_MASK))
            self._piece_written(hpa, data[:size])
            hpa, data = hpa + size, data[size:]

    def _piece_written(self, hpa: int, data: bytes) -> None:
        """Judge a write to one frame."""
        hfn, start = hpa >> PAGE_SHIFT, hpa & PAGE_MASK
        expected = self._expected.get(hfn)
        if expected is None:
            expected = self._expected[hfn] = bytearray(self._memory.at_snapshot(hfn))
        end = start + len(data)
        before = bytes(expected[start:end])
        expected[start:end] = data
        who = self._refused(hpa, before, data)
        if who:
            rule = RULES.get(self._scene.frame_word(hfn) >> 8 & 0xFF, "foreign")
            self._report(rule, f"{who} changes {self._difference(hfn, start, before, data)}")

    def _refused(self, hpa: int, before: bytes, data: bytes) -> str:
        """Who made the write, if it may not; "" if it may."""
        hfn, end = hpa >> PAGE_SHIFT, hpa + len(data)
        if within(self._told.copy, hpa, end):
            if end == self._told.copy[1]:
                self._told.copy = NOTHING
            if hfn in self._told.copied_to:
                return ""
            return f"the hypervisor, by a copy in an exit of dom{self._told.copied_for},"
        if within(self._told.access, hpa, end):
            return self._refused_access(hfn)
        if within(self._told.host, hpa, end):
            return self._refused_host(hfn, hpa, before, data)
        if self._only_flags(hfn, before, data):
            return ""
        return "a write that nobody announced"

    def _refused_access(self, hfn: int) -> str:
        """Who made the announced access, if it may not write to the frame."""
        initiator = self._told.accessor
        if isinstance(initiator, VCpu):
            number = initiator.domain
            if self._may_use(number, hfn, WRITE):
                return ""
            return f"vCPU {initiator.index} of dom{number}"
        self._told.access = NOTHING
        number = self._shadow.device_domain(initiator.bdf)
        if number >= 0 and (
            self._kinds[hfn] in self._own[number]
            or self._entitlements.may_access(number | DMA, hfn, WRITE)
            or self._entitlements.is_reserved_for(number, hfn)
        ):
            return ""
        return f"device {initiator.bdf:#06x} of {f'dom{number}' if number >= 0 else 'no domain'}"

    def _refused_host(self, hfn: int, hpa: int, before: bytes, data: bytes) -> str:
        """The hypervisor, if it may not write this through its own mapping."""
        state = self._scene.frame_word(hfn) >> 8 & 0xFF
        if state == RESERVED and any(data):
            return "the hypervisor, by its own mapping,"
        heap_header = hfn >= self._first_heap and hpa & PAGE_MASK < HEAP_HEADER
        if state in DOMAINS and (hfn not in self._given or any(data)):
            rule = "foreign"
        elif state == HYPERVISOR and (heap_header or hfn == CONTROL) and data != before:
            rule = "canary"
        else:
            return ""
        what = self._difference(hfn, hpa & PAGE_MASK, before, data)
        self._pending.setdefault(hfn, (rule, f"the hypervisor, by its own mapping, changes {what}"))
        return ""

    def _may_copy(self, vcpu: VCpu, gva: int, hfn: int, write: bool) -> bool:
        """Whether the hypervisor may copy from or to the frame for the vCPU.

        Through a guest address it must be the domain's own, or mapped by a grant. Else `grant.copy` must name it.
        """
        if gva != NO_GVA:
            return self._may_use(vcpu.domain, hfn, WRITE if write else READ)
        end = self._ends.named(vcpu, write)
        return end is not None and end.hpa >> PAGE_SHIFT == hfn

    def _may_use(self, number: int, hfn: int, access: int) -> bool:
        """Whether the frame is the domain's own, or mapped by a grant."""
        own = 0 <= hfn < self._memory.frames and self._kinds[hfn] in self._own[number]
        return own or self._entitlements.may_access(number, hfn, access)

    def _only_flags(self, hfn: int, before: bytes, data: bytes) -> bool:
        """Whether a page walk of a vCPU that may act in this op set accessed or dirty flags in its guest's tables."""
        old, new = int.from_bytes(before, "little"), int.from_bytes(data, "little")
        if len(data) != WORD or new & ~FLAGS != old & ~FLAGS or old & ~new:
            return False
        acting = self._calls.acting
        if acting is None:
            return self._scene.frame_word(hfn) >> 8 & 0xFF in DOMAINS
        return any(self._may_use(self._scene.machine.vcpus[number].domain, hfn, READ) for number in acting)

    # The end of an op.

    def op_finished(self) -> None:
        """Compare the frames that were written with what they should hold."""
        for rule, text in self._pending.values():
            self._report(rule, text)
        self._pending.clear()
        self._given.clear()
        read, expected, words = self._memory.read, self._expected, self._scene.frame_word
        for hfn in sorted(self._memory.dirty):
            page = read(hfn << PAGE_SHIFT, PAGE_SIZE)
            known = expected.get(hfn)
            if known is None:
                known = expected[hfn] = bytearray(self._memory.at_snapshot(hfn))
            if page != known:
                rule = RULES.get(words(hfn) >> 8 & 0xFF, "foreign")
                start = next(at for at in range(PAGE_SIZE) if page[at] != known[at])
                what = self._difference(hfn, start, bytes(known[start:]), page[start:])
                self._report(rule, f"a write past memory's own methods changes {what}")
                known[:] = page
            state = words(hfn) >> 8 & 0xFF
            if (state == FREE and page != ZERO_PAGE) or (state == POOL and page != POISONED):
                right = ZERO_PAGE if state == FREE else POISONED
                start = next(at for at in range(PAGE_SIZE) if page[at] != right[at])
                found = f"{page[start]:#04x} at offset {start:#x}, expected {right[start]:#04x}"
                self._report("free", f"{self._scene.describe(hfn)} holds {found}")

    def _difference(self, hfn: int, start: int, before: bytes, after: bytes) -> str:
        """A change in words: frame, offset, the first bytes before and after."""
        shown = slice(SHOWN)
        old, new = before[shown].hex(), after[shown].hex()
        return f"{self._scene.describe(hfn)} at offset {start:#x}: {old} -> {new}"

    def _report(self, rule: str, message: str) -> None:
        self._scene.report(self.oracle, rule, message)
