"""State features: what the hypervisor and the hardware did in a run, as small numbers for coverage feedback.

A flush that is left out adds no branch to the hypervisor's code, so bytecode coverage cannot see it; the TLB hit
that follows can be seen here. Every number is computed from names and counts alone: the same run gives the same
features in every process. What a planted bug does is left out where it has a name of its own: that name would
reward the fuzzer for nothing.
"""

from functools import lru_cache
from typing import Any, Final
from zlib import crc32

from hvfuzz.abi.declaration import Declaration
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.effects import Step
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.core.observer import Observer
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.machine import Machine

SPACE: Final = 1 << 14
"""Features are below this; a power of two. Two things may share a number, as in any hashed coverage map."""
_FREED: Final = 16
"""Where, in the states of the frames that a call changed, those that it let go of begin."""
_MASK: Final = SPACE - 1
_PACKAGE: Final = "hvfuzz.hypervisor."
_FOREIGN: Final = -1


@lru_cache(1 << 16)
def _number(key: tuple[Any, ...]) -> int:
    """The feature of a tuple of names and counts."""
    return crc32(repr(key).encode()) & _MASK


class StateFeatures(Observer):
    """Collects the features of one run in `hits`, each once; `reset` begins the next.

    Counts are left to what is worth counting (how full the tables are): with a counter for each event, every longer
    program is a new input, and the corpus grows without end.
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
        # Not the hypervisor's own accessors: watching is no work of the host's.
        self._domains: Final = tuple(hypervisor.domains)
        self._words: Final = machine.memory.words
        self._frame_table: Final = hypervisor.frames.base >> 3
        self._kinds: Final[dict[type, int]] = {}
        self._rows: Final[dict[int, dict[Any, int]]] = {}
        """For a kind of step that happened, the feature of each call after it."""
        self._numbers: Final[dict[Any, Any]] = {}
        """The features of what was seen once: tuples are for calls, ints for ops (see `op_finished`)."""
        self.reset()

    def reset(self) -> None:
        """Begin a run."""
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
        """(call, status, refusing check), what it did to frames, how full the tables are, how big the result; and
        (kind of step that happened before, call, whether it succeeded): a call does other things in another state.
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
        """A frame of this state came into use in the call: a table, for one, when a superpage is split."""
        self._frames |= 1 << state

    def frame_freed(self, hfn: int) -> None:
        """A frame is free, or a table back in its pool."""
        self._frames |= 1 << _FREED + (self._words[self._frame_table + hfn] >> 8 & 0xFF)

    def block_allocated(self, first: int, owner: int, state: int) -> None:
        """As for one frame: all of a block are in the same use."""
        self._frames |= 1 << state

    def block_freed(self, first: int) -> None:
        """As for one frame."""
        self.frame_freed(first)

    def stepped(self, step: Step) -> None:
        """(kind of step, kind of the step before it in the same call)."""
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
        """(op, how it ended, which caches it hit and missed, in which mode its vCPU is), and (op that succeeded, the
        one before that did)."""
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
        # One int that holds all five (an opcode is a byte, `how` is below 4): a tuple takes longer to look up.
        ended = (((status << 8 | code) << 2 | how) << 4 | events) << 1 | user
        number = numbers.get(ended)
        if number is None:
            number = numbers[ended] = _number((code, how, status, events, user))
        hits[number] = None
        if how == 0 and status == 0:
            hits[_number((code, self._last_code))] = None
            self._last_code = code
