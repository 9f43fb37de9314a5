"""State features: events of the hypervisor and the hardware in a run, as small numbers for coverage feedback.

A missing flush adds no branch to the hypervisor's code, so bytecode coverage cannot show it; the TLB hit that follows
is an event. Every number is computed from names and counts only, so that a run has the same features in every process.
Steps that a planted bug defines are not counted: their names would reward the fuzzer for finding the bug.
"""

from functools import lru_cache
from typing import Any, Final
from zlib import crc32

from hvfuzz.abi.declaration import Declaration
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.core.observer import AppliedStep, Observer
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.machine import Machine

SPACE: Final = 1 << 14
"""Features are below this power of two. Two events may have the same number, as in any hashed coverage map."""
_FREED: Final = 16
"""In `_frames`: bit `state` is set for an allocated frame of that state, bit `_FREED + state` for a freed one."""
_MASK: Final = SPACE - 1
_PACKAGE: Final = "hvfuzz.hypervisor."
_FOREIGN: Final = -1
"""Number of a kind of step that the hypervisor does not define."""


@lru_cache(1 << 16)
def _number(key: tuple[Any, ...]) -> int:
    """The feature of a tuple of names and counts. 0.18 µs if cached; a lookup in a dict takes 0.11 µs."""
    return crc32(repr(key).encode()) & _MASK


class StateFeatures(Observer):
    """Collects the features of one run as the keys of `hits`; `reset` starts the next run.

    Only how full tables are is counted. If each event were counted, every longer program would have new features, and
    the corpus would grow without limit.
    """

    __snapshot_leaf__ = True
    __slots__ = (
        "_domains",
        "_frame_table",
        "_frames",
        "_iommu",
        "_iommu_hits",
        "_iommu_misses",
        "_kinds",
        "_last_code",
        "_last_step",
        "_numbers",
        "_past",
        "_rows",
        "_tlb",
        "_tlb_hits",
        "_tlb_misses",
        "_words",
        "hits",
    )

    def __init__(self, machine: Machine, hypervisor: Hypervisor) -> None:
        self._tlb: Final = machine.tlb
        self._iommu: Final = machine.iommu
        # Raw memory, not the hypervisor's accessors: these count as work of the host.
        self._domains: Final = tuple(hypervisor.domains)
        self._words: Final = machine.memory.words
        self._frame_table: Final = hypervisor.frames.base >> 3
        self._kinds: Final[dict[type, int]] = {}
        self._rows: Final[dict[int, dict[Any, int]]] = {}
        """{kind of step: {(call, whether it succeeded): feature}}, for calls after such a step."""
        self._numbers: Final[dict[Any, Any]] = {}
        """{event: feature or features}, for events of calls and ops."""
        self.reset()

    def reset(self) -> None:
        """Start a run."""
        self.hits: dict[int, None] = {}
        self._frames = 0
        self._last_step = 0
        self._last_code = 0
        self._past: dict[int, dict[Any, int]] = {}
        self._tlb_hits, self._tlb_misses = self._tlb.hits, self._tlb.misses
        self._iommu_hits, self._iommu_misses = self._iommu.hits, self._iommu.misses

    def call_finished(
        self, vcpu: VCpu, declaration: Declaration | None, args: Any, status: Status, result: int, reason: str
    ) -> None:
        """Features of a call: status and refusing check, frames changed, table sizes, size of the result.

        And (kind of an earlier step, call, whether it succeeded), since a call behaves differently in another state.
        """
        name = "" if declaration is None else declaration.name
        hits, numbers = self.hits, self._numbers
        if self._frames:
            changed = (name, self._frames)
            hits[_number(changed)] = None
            self._frames = 0
        ended = (name, status, reason)
        number = numbers.get(ended)
        if number is None:
            number = numbers[ended] = _number((name, int(status), reason))
        hits[number] = None
        after = (name, status == 0)
        for kind, row in self._past.items():
            number = row.get(after)
            if number is None:
                number = row[after] = _number((kind, *after))
            hits[number] = None
        if status == 0:
            domain = self._domains[vcpu.domain]
            grants, handles = domain.grants, domain.handles
            filled = (
                name,
                (len(grants) - list.count(grants, None)).bit_length(),
                (len(handles) - list.count(handles, None)).bit_length(),
                len(domain.pool).bit_length(),
                result.bit_length(),
            )
            pair = numbers.get(filled)
            if pair is None:
                pair = numbers[filled] = (_number(filled[:4]), _number((name, filled[4])))
            hits[pair[0]] = hits[pair[1]] = None
        self._last_step = 0

    def frame_allocated(self, hfn: int, owner: int, state: int) -> None:
        """The call took a frame into use, for example a table when a superpage is split."""
        self._frames |= 1 << state

    def frame_freed(self, hfn: int) -> None:
        """The call freed a frame, or returned a table to its pool."""
        self._frames |= 1 << _FREED + (self._words[self._frame_table + hfn] >> 8 & 0xFF)

    def block_allocated(self, first: int, owner: int, state: int) -> None:
        """Count the block as one frame: all its frames have the same state."""
        self._frames |= 1 << state

    def block_freed(self, first: int) -> None:
        """Count the block as one frame."""
        self.frame_freed(first)

    def stepped(self, step: AppliedStep) -> None:
        """The feature (kind of step, kind of the previous step in the same call)."""
        kind = self._kinds.get(type(step))
        if kind is None:
            ours = type(step).__module__.startswith(_PACKAGE)
            kind = self._kinds[type(step)] = crc32(type(step).__name__.encode()) if ours else _FOREIGN
        if kind != _FOREIGN:
            self.hits[(kind ^ (self._last_step >> 1)) & _MASK] = None
            self._last_step = kind
            if kind not in self._past:
                self._past[kind] = self._rows.setdefault(kind, {})

    def op_finished(self, code: int, how: int, status: int, user: bool) -> None:
        """The features (op, how it ended, caches hit and missed, mode of the vCPU) and (successful op, last one)."""
        tlb, iommu = self._tlb, self._iommu
        events = 0
        if tlb.hits > self._tlb_hits:
            events = 1
            self._tlb_hits = tlb.hits
        if tlb.misses > self._tlb_misses:
            events |= 2
            self._tlb_misses = tlb.misses
        if iommu.hits > self._iommu_hits:
            events |= 4
            self._iommu_hits = iommu.hits
        if iommu.misses > self._iommu_misses:
            events |= 8
            self._iommu_misses = iommu.misses
        hits, numbers = self.hits, self._numbers
        ended = (code, how, status, events, user)
        number = numbers.get(ended)
        if number is None:
            number = numbers[ended] = _number(ended)
        hits[number] = None
        if how == 0 and status == 0:
            hits[_number((code, self._last_code))] = None
            self._last_code = code
