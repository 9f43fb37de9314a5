"""The hypervisor's own memory accesses: it touches what it owns, guest memory only by validated copies, and survives.

A freed frame or table page says FREE or POOL in its frame word at once, so an access to it is caught before the page
has another owner. Two kinds of writes are legal although they look wrong at first, and are judged later in the same
call: the scrubbing of a domain's frame that is then freed, and the header of a heap page that is then allocated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final

from hvfuzz.abi.boot import HYPERVISOR_HOLE_END, HYPERVISOR_HOLE_START
from hvfuzz.hypervisor.core.host import HostFault
from hvfuzz.hypervisor.memory.frames import STATE_SHIFT, FrameState
from hvfuzz.hypervisor.memory.table_pool import POISON
from hvfuzz.machine.addresses import LARGE_FRAMES, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE, WORD, WORDS_PER_PAGE
from hvfuzz.machine.physical_memory import ZERO_PAGE
from hvfuzz.oracles.framework.fault_origin import fault_text
from hvfuzz.oracles.framework.oracle import Oracle, Rules
from hvfuzz.oracles.host.heap_headers import CONTROL, OUTSIDE_HEADER, HeapHeaders
from hvfuzz.oracles.scene.excuses import DEVICE_MEMORY, OWN_TARGET, RACED_FRAME
from hvfuzz.oracles.scene.scene import Scene

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
"""States of a domain's frames."""
POISONED: Final = POISON.to_bytes(WORD, "little") * WORDS_PER_PAGE


class HostMemory(Oracle):
    """The hypervisor accesses only what it owns or validated, and no exception leaves host context."""

    name = "host_memory"
    rules: ClassVar[Rules] = {
        "free": "the hypervisor does not touch a free frame, except to fill in the header of a page it then allocates",
        "freed": "the hypervisor does not touch a table page that it gave back",
        "guest": "the hypervisor touches a domain's frame only by a guest copy, or to scrub it before freeing it",
        "unannounced": "the hypervisor accesses only what it announced, a guest copy once, and tells the end of a step",
        "fresh": "a page given to a domain is zero at the end of the call, except for what the call writes",
        "scrub": "a frame is all zero when it is freed",
        "poison": "a table page that goes back to its pool is poisoned, so that a stale walk meets reserved bits",
        "header": "a heap page's header has a secret word; the header and the control area never change",
        "hole": "no copy on behalf of a guest resolves to the hypervisor's own address range",
        "null": "the hypervisor follows no null pointer",
        "bounds": "the hypervisor indexes no array outside its bounds",
        "fault": "the hypervisor touches no memory that does not exist",
        "exception": "no other exception leaves host context (the type of the exception is part of the rule)",
    }

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        super().__init__(scene, shadow)
        self._memory = memory = scene.machine.memory
        self._frames = memory.frames
        self._read = memory.read
        self._dirty = memory.dirty
        self._calls = scene.calls
        # The bytes of the frame words that hold the states.
        first = scene.frame_words * WORD + STATE_SHIFT // 8
        self._states = memory.data[first : first + memory.frames * WORD : WORD]
        self._headers: Final = HeapHeaders(scene, self.report)
        self.host_access: Final = self._host_access_listener()
        self._pending: dict[int, int] = {}
        """Hfn of a frame whose write is still to be judged -> its state when it was written."""

    def attach(self) -> None:
        """Learn the headers of the heap pages in use."""
        self._headers.attach()
        self._pending.clear()

    def reset(self) -> None:
        """No write is pending."""
        self._pending.clear()
        self._headers.reset()

    def _host_access_listener(self) -> Callable[[int, int, bool], None]:
        """The listener of the most frequent event: a closure, which spares the look-ups of attributes."""
        states, frames, suspect, wider = self._states, self._frames, self._suspect, self._range
        header_written = self._headers.written

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
                        header_written(hfn)

        return host_access

    def _range(self, hpa: int, size: int, write: bool) -> None:
        """Check an access that is not to one word."""
        first = hpa >> PAGE_SHIFT
        last = min(hpa + size - 1 >> PAGE_SHIFT, self._frames - 1)
        if last - first >= LARGE_FRAMES - 1 and write and not size & PAGE_MASK:
            states = self._states[first : last + 1].tobytes()
            if states[0] not in (TABLE, HYPERVISOR, POOL) and states.count(states[0]) == len(states):
                # The frames of a large leaf are scrubbed.
                self._pending = dict.fromkeys(range(first, last + 1), states[0]) | self._pending
                return
        for hfn in range(first, last + 1):
            state = self._states[hfn]
            if state == TABLE:
                if write and size == PAGE_SIZE:
                    self.shadow.page_written(hfn)
            elif state == RESERVED and write and not size & PAGE_MASK:
                self.scene.excused(DEVICE_MEMORY)  # zeroed after the reset of the device that it is reserved for
            elif state != HYPERVISOR:
                self._suspect(hfn, size, write, state)
            elif write and size & PAGE_MASK and (hfn > first or not hpa & OUTSIDE_HEADER or hfn == CONTROL):
                self._headers.written(hfn)

    def _suspect(self, hfn: int, size: int, write: bool, state: int) -> None:
        """Check an access to a frame that is not the hypervisor's: report it, or judge it later."""
        if write and state != POOL:
            self._pending.setdefault(hfn, state)
            return
        verb, way = ("writes", "to") if write else ("reads", "from")
        rule = "free" if state == FREE else "freed" if state == POOL else "guest"
        self.report(rule, f"the hypervisor {verb} {size} bytes {way} {self.scene.describe(hfn)}")

    def frame_allocated(self, hfn: int, owner: int, state: int) -> None:
        """A write to this frame while it was free is legal: it was its header."""
        if state == HYPERVISOR:
            self._headers.allocated(hfn)
        if self._pending:
            self._pending.pop(hfn, None)

    def frame_freed(self, hfn: int) -> None:
        """A write to this frame is legal: it was scrubbed. It must be clean."""
        if self._read(hfn << PAGE_SHIFT, PAGE_SIZE) != (POISONED if self._states[hfn] == POOL else ZERO_PAGE):
            self._report_not_clean(hfn)
        self._headers.freed(hfn)
        if self._pending:
            self._pending.pop(hfn, None)

    def block_allocated(self, first: int, owner: int, state: int) -> None:
        """See `frame_allocated`; a block has no header."""
        if self._pending:
            self._allow_block(first)

    def block_freed(self, first: int) -> None:
        """See `frame_freed`."""
        read = self._read
        for hfn in range(first, first + LARGE_FRAMES):
            if read(hfn << PAGE_SHIFT, PAGE_SIZE) != ZERO_PAGE:
                self._report_not_clean(hfn)
        if self._pending:
            self._allow_block(first)

    def _report_not_clean(self, hfn: int) -> None:
        if self._states[hfn] == POOL:
            self.report("poison", f"{self.scene.describe(hfn)} went back to its pool without being poisoned")
        else:
            self.report("scrub", f"{self.scene.describe(hfn)} was freed without being zeroed")

    def _allow_block(self, first: int) -> None:
        for hfn in range(first, first + LARGE_FRAMES):
            self._pending.pop(hfn, None)

    def call_finished(self, vcpu: VCpu, declaration: Any, args: Any, status: Any, result: int, reason: str) -> None:
        """Judge the pending writes, and the pages that the call gave to domains."""
        if self._pending:
            self._judge_pending()
        call = self._calls.current
        if call.fresh:
            self._check_fresh(call)

    def op_finished(self) -> None:
        """Judge the pending writes."""
        if self._pending:
            self._judge_pending()

    def _check_fresh(self, call: RunningCall) -> None:
        """A page given to a domain must still be zero; `secrets` checks it at its allocation."""
        for hfn in self._dirty.intersection(call.fresh):
            if self._states[hfn] not in DOMAINS:
                continue  # Heap pages have headers.
            if hfn in call.targets:
                self.scene.excused(OWN_TARGET)
            elif self._read(hfn << PAGE_SHIFT, PAGE_SIZE) == ZERO_PAGE:
                continue
            elif self._calls.interrupted:
                self.scene.excused(RACED_FRAME)
            else:
                self.report("fresh", f"{self.scene.describe(hfn)} is not zero at the end of the call that allocated it")
                return

    def _judge_pending(self) -> None:
        """Report the frames that were written, but neither allocated nor freed afterwards."""
        for hfn, state in self._pending.items():
            if state == FREE:
                self.report("free", f"the hypervisor wrote to {self.scene.describe(hfn)}")
            else:
                self.report("guest", f"the hypervisor overwrote {self.scene.describe(hfn)} and did not free it")
        self._pending.clear()

    def invalid_copy(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        """Check a copy at an address that no guest may name."""
        if HYPERVISOR_HOLE_START <= gva < HYPERVISOR_HOLE_END:
            way = "to" if write else "from"
            frame = self.scene.describe(hpa >> PAGE_SHIFT)
            self.report("hole", f"the hypervisor copies {size} bytes {way} gva {gva:#x}, which is {frame}")

    def audit(self) -> None:
        """Compare the headers of all heap pages."""
        self._headers.audit()

    def host_exception(self, fault: BaseException) -> None:
        """Report the exception. The rule names the kind of fault, and never a number."""
        text = fault_text(fault)
        if not isinstance(fault, HostFault):
            self.report(f"exception:{type(fault).__name__}", text)
        elif text.startswith("array"):
            self.report("bounds", text)
        elif text.startswith("null"):
            self.report("null", text)
        else:
            self.report("fault", text)
