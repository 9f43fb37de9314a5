"""The host's own memory: the hypervisor touches what it owns, guests' memory only by validated copies, and survives.

A freed table page or frame is the test: its frame word says FREE or POOL at that moment, so whoever still walks or
writes it is caught before the page has another owner. Two accesses are early or late by design and settled later in
the same call: the scrubbing of a domain's frame that is then freed, and the header of a heap page that is then
allocated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final

from hvfuzz.abi.boot import HYPERVISOR_HOLE_END, HYPERVISOR_HOLE_START
from hvfuzz.hypervisor.core.host import HostFault
from hvfuzz.hypervisor.core.hypervisor import CONTROL_AREA
from hvfuzz.hypervisor.memory.allocator import HEAP_CANARY, HEAP_HEADER
from hvfuzz.hypervisor.memory.frames import STATE_SHIFT, FrameState
from hvfuzz.hypervisor.memory.table_tree import POISON
from hvfuzz.machine.addresses import LARGE_FRAMES, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, WORD, WORDS_PER_PAGE
from hvfuzz.machine.memory import ZERO_PAGE
from hvfuzz.oracles.framework.oracle import Oracle, Rules
from hvfuzz.oracles.scene.scene import Scene
from hvfuzz.oracles.shadow.rewindable import ShadowMap

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.scene.running_call import RunningCall
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

FREE = int(FrameState.FREE)
HYPERVISOR = int(FrameState.HYPERVISOR)
TABLE = int(FrameState.TABLE)
POOL = int(FrameState.POOL)
RESERVED = int(FrameState.RESERVED)
DOMAINS: Final = (int(FrameState.OWNED), int(FrameState.SHARED))
"""States of frames that are a domain's."""
CONTROL: Final = CONTROL_AREA >> PAGE_SHIFT
POISONED: Final = POISON.to_bytes(WORD, "little") * WORDS_PER_PAGE
OUTSIDE_HEADER: Final = PAGE_MASK & ~(HEAP_HEADER - 1)
"""Bits of an address that are all clear in the header of a heap page."""


class HostMemory(Oracle):
    """No host access outside what the hypervisor owns or validated; no exception leaves host context."""

    name = "host_memory"
    rules: ClassVar[Rules] = {
        "free": "the hypervisor does not touch a free frame, but to fill in the header of a page it then allocates",
        "freed": "the hypervisor does not touch a table page that it gave back",
        "guest": "the hypervisor touches a domain's frame only by a guest copy, or to scrub it before it is freed",
        "unannounced": "the hypervisor reads and writes no byte that it did not announce, and a guest copy once",
        "fresh": "a page that a call gives to a domain is zero when the call is over, but for what the call writes",
        "scrub": "a frame is all zero when it is freed",
        "poison": "a table page that goes back to its pool is poisoned: who walks it still meets reserved bits",
        "header": "the header of a heap page has a secret; that header, and the control area, stay as they were made",
        "hole": "no copy on behalf of a guest resolves to the hypervisor's own address range",
        "null": "the hypervisor follows no null pointer",
        "bounds": "the hypervisor indexes no array outside its bounds",
        "fault": "the hypervisor touches no memory that does not exist",
        "exception": "no exception of another kind leaves host context (the rule is followed by its type)",
    }

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        super().__init__(scene, shadow)
        self._memory = memory = scene.machine.memory
        self._frames = memory.frames
        self._read = memory.read
        self._dirty = memory.dirty
        self._calls = scene.calls
        # The bytes of the frame words that hold the states, and no others.
        first = scene.frame_words * WORD + STATE_SHIFT // 8
        self._states = memory.data[first : first + memory.frames * WORD : WORD]
        self.host_access: Final = self._watcher()
        """Called when the hypervisor is about to access its mapping of host memory: see `Observer`."""
        self._pending: dict[int, int] = {}
        """Hfn -> its state when it was written."""
        self._headers: Final[ShadowMap[int, bytes]] = ShadowMap()
        """Hfn of a heap page -> its header, once it has one."""
        self._control = b""

    def attach(self) -> None:
        """The heap pages that there are have the headers that they should have."""
        self._control = self._memory.read(CONTROL_AREA, PAGE_SIZE)
        # The control area and the frame table lie at fixed places, below the heap.
        heap = self.scene.frame_words + self._frames + WORDS_PER_PAGE - 1 >> 9
        for hfn in range(heap, self._frames):
            if self._states[hfn] == HYPERVISOR:
                self._headers[hfn] = self._header(hfn)
        self._headers.rebase()
        self.reset()

    def reset(self) -> None:
        """Nothing is under way."""
        self._pending.clear()
        self._headers.reset()

    def _header(self, hfn: int) -> bytes:
        """The header that a heap page has now."""
        return self._memory.read(hfn << PAGE_SHIFT, HEAP_HEADER)

    def _watcher(self) -> Callable[[int, int, bool], None]:
        """The listener for the most frequent moment of all: a plain function, with what it needs at hand."""
        states, frames, suspect, wider = self._states, self._frames, self._suspect, self._range
        overwritten = self._overwritten

        def host_access(hpa: int, size: int, write: bool) -> None:
            hfn = hpa >> PAGE_SHIFT
            if size != WORD:
                wider(hpa, size, write)
            elif hfn < frames:  # Else the access itself will fault.
                state = states[hfn]
                if state != TABLE:
                    if state != HYPERVISOR:
                        suspect(hfn, size, write, state)
                    elif write and (not hpa & OUTSIDE_HEADER or hfn == CONTROL):
                        overwritten(hfn)

        return host_access

    def _range(self, hpa: int, size: int, write: bool) -> None:
        """An access to more, or less, than a word."""
        first = hpa >> PAGE_SHIFT
        last = min(hpa + size - 1 >> PAGE_SHIFT, self._frames - 1)
        if last - first >= LARGE_FRAMES - 1 and write and not size & PAGE_MASK:
            states = self._states[first : last + 1].tobytes()
            if states[0] not in (TABLE, HYPERVISOR, POOL) and states.count(states[0]) == len(states):
                # A large leaf's frames are scrubbed.
                self._pending = dict.fromkeys(range(first, last + 1), states[0]) | self._pending
                return
        for hfn in range(first, last + 1):
            state = self._states[hfn]
            if state == TABLE:
                if write and size == PAGE_SIZE:
                    self.shadow.page_written(hfn)
            elif state == RESERVED and write and not size & PAGE_MASK:
                continue  # zeroed, after the device that it is for was reset
            elif state != HYPERVISOR:
                self._suspect(hfn, size, write, state)
            elif write and size & PAGE_MASK and (hfn > first or not hpa & OUTSIDE_HEADER or hfn == CONTROL):
                self._overwritten(hfn)

    def _suspect(self, hfn: int, size: int, write: bool, state: int) -> None:
        """An access to a frame that is not the hypervisor's."""
        if write and (state == FREE or (state != POOL and not size & PAGE_MASK)):
            self._pending.setdefault(hfn, state)
            return
        way = "written" if write else "read"
        rule = "free" if state == FREE else "freed" if state == POOL else "guest"
        self.report(rule, f"{size} bytes {way} in {self.scene.describe(hfn)}")

    def _overwritten(self, hfn: int) -> None:
        """The first bytes of a frame of the hypervisor's are written; before it is announced, that is as it should."""
        if hfn == CONTROL:
            self.report("header", "the control area is written")
        elif hfn in self._headers:
            self.report("header", f"the header of heap page {hfn:#x} is written")

    def frame_allocated(self, hfn: int, owner: int, state: int) -> None:
        """What was written to the free frame was its header."""
        if state == HYPERVISOR:
            header = self._header(hfn)
            if not any(header[HEAP_CANARY : HEAP_CANARY + WORD]):
                self.report("header", f"heap page {hfn:#x} has no secret word")
            self._headers.put(hfn, header)
        if self._pending:
            self._pending.pop(hfn, None)

    def frame_freed(self, hfn: int) -> None:
        """What was written to the frame was the scrubbing, and left nothing."""
        if self._read(hfn << PAGE_SHIFT, PAGE_SIZE) != (POISONED if self._states[hfn] == POOL else ZERO_PAGE):
            self._report_rest(hfn)
        if hfn in self._headers:
            self._headers.drop(hfn)
        if self._pending:
            self._pending.pop(hfn, None)

    def block_allocated(self, first: int, owner: int, state: int) -> None:
        """As for a frame; nothing is written to a block before."""
        if self._pending:
            self._settle_block(first)

    def block_freed(self, first: int) -> None:
        """As for a frame."""
        read = self._read
        for hfn in range(first, first + LARGE_FRAMES):
            if read(hfn << PAGE_SHIFT, PAGE_SIZE) != ZERO_PAGE:
                self._report_rest(hfn)
        if self._pending:
            self._settle_block(first)

    def _report_rest(self, hfn: int) -> None:
        if self._states[hfn] == POOL:
            self.report("poison", f"{self.scene.describe(hfn)} is in the pool with what it held as a table")
        else:
            self.report("scrub", f"something is left in {self.scene.describe(hfn)}, which is freed")

    def _settle_block(self, first: int) -> None:
        for hfn in range(first, first + LARGE_FRAMES):
            self._pending.pop(hfn, None)

    def call_finished(self, vcpu: VCpu, declaration: Any, args: Any, status: Any, result: int, reason: str) -> None:
        """What was neither allocated nor freed should not have been written, and what was allocated is zero."""
        if self._pending:
            self._settle()
        call = self._calls.current
        if call.fresh:
            self._check_fresh(call)

    def op_finished(self) -> None:
        """As at the end of a call."""
        if self._pending:
            self._settle()

    def _check_fresh(self, call: RunningCall) -> None:
        """Pages that are a domain's now must be as they were when they were allocated; `secrets` looks at them then."""
        for hfn in self._dirty.intersection(call.fresh):
            # The call itself may write there, and pages of the hypervisor's have headers.
            mine = hfn in call.targets or self._states[hfn] not in DOMAINS
            if not mine and self._read(hfn << PAGE_SHIFT, PAGE_SIZE) != ZERO_PAGE:
                self.report("fresh", f"{self.scene.describe(hfn)} is not zero when the call is over")
                return

    def _settle(self) -> None:
        for hfn, state in self._pending.items():
            if state == FREE:
                self.report("free", f"something was written in {self.scene.describe(hfn)}")
            else:
                self.report("guest", f"all was written, and not to free it, in {self.scene.describe(hfn)}")
        self._pending.clear()

    def invalid_copy(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        """A copy on behalf of a guest is about to be made, at an address that no guest may name."""
        if HYPERVISOR_HOLE_START <= gva < HYPERVISOR_HOLE_END:
            way = "to" if write else "from"
            self.report("hole", f"{size} bytes {way} gva {gva:#x}, which is {self.scene.describe(hpa >> PAGE_SHIFT)}")

    def audit(self) -> None:
        """Look at what nobody may have changed, by whatever way."""
        if self._memory.read(CONTROL_AREA, PAGE_SIZE) != self._control:
            self.report("header", "the control area has changed")
        for hfn, header in sorted(self._headers.items()):
            if self._header(hfn) != header:
                self.report("header", f"the header of heap page {hfn:#x} has changed")

    def host_exception(self, fault: BaseException) -> None:
        """Name the rule after what went wrong, never after a number in it."""
        text = str(fault)
        if not isinstance(fault, HostFault):
            self.report(f"exception:{type(fault).__name__}", text)
        elif text.startswith("array"):
            self.report("bounds", text)
        elif text.startswith("null"):
            self.report("null", text)
        else:
            self.report("fault", text)
