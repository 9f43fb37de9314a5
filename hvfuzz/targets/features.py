"""State features: what the hypervisor and the hardware did in a run, as small numbers for coverage feedback.

A flush that is left out adds no branch to the hypervisor's code, so bytecode coverage cannot see it; the TLB hit
that follows can be seen here. Every number is computed from names and counts alone: the same run gives the same
features in every process.
"""

from typing import Any, Final
from zlib import crc32

from hvfuzz.abi.declaration import Declaration
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.effects import Step
from hvfuzz.hypervisor.hypervisor import Hypervisor
from hvfuzz.hypervisor.observer import Observer
from hvfuzz.machine.cpu import VCpu
from hvfuzz.machine.machine import Machine

SPACE: Final = 1 << 14
"""Features are below this; a power of two. Two things may share a number, as in any hashed coverage map."""
_MASK: Final = SPACE - 1


def _name(text: str) -> int:
    return crc32(text.encode())


class StateFeatures(Observer):
    """Collects the features of one run; `reset` begins the next."""

    __slots__ = ("_before", "_hypervisor", "_last", "_machine", "_names", "hits")

    def __init__(self, machine: Machine, hypervisor: Hypervisor) -> None:
        self._machine: Final = machine
        self._hypervisor: Final = hypervisor
        self._names: Final[dict[Any, int]] = {}
        self.hits: list[int] = []
        self._last = 0
        self._before = (0, 0, 0, 0)

    def reset(self) -> None:
        """Begin a run."""
        self.hits = []
        self._last = 0
        self._before = self._caches()

    def _caches(self) -> tuple[int, int, int, int]:
        machine = self._machine
        tlb, iommu = machine.tlb, machine.iommu
        return tlb.hits, tlb.misses, iommu.hits, iommu.misses

    def _hash(self, key: Any) -> int:
        number = self._names.get(key)
        if number is None:
            number = self._names[key] = _name(repr(key))
        return number

    def call_finished(
        self, vcpu: VCpu, declaration: Declaration | None, args: Any, status: Status, result: int, reason: str
    ) -> None:
        """(call, status, refusing check), and how full the caller's tables then are."""
        name = "" if declaration is None else declaration.name
        hits = self.hits
        hits.append(self._hash((name, int(status), reason)) & _MASK)
        if status == 0:
            domain = self._hypervisor.domains[vcpu.domain]
            grants = sum(1 for grant in list.__iter__(domain.grants) if grant is not None)
            handles = sum(1 for handle in list.__iter__(domain.handles) if handle is not None)
            pool = len(domain.pool)
            hits.append(
                self._hash((name, grants.bit_length(), handles.bit_length(), pool.bit_length(), pool == 0)) & _MASK
            )

    def stepped(self, step: Step) -> None:
        """(kind of step, kind of the step before it)."""
        kind = self._hash(type(step).__name__)
        self.hits.append((kind ^ (self._last >> 1)) & _MASK)
        self._last = kind

    def op_finished(self, code: int, how: int, status: int) -> None:
        """(op, how it ended, which caches it hit and missed), and that pair with the op before."""
        caches = self._caches()
        before, self._before = self._before, caches
        events = 0
        for bit, (now, then) in enumerate(zip(caches, before, strict=True)):
            if now > then:
                events |= 1 << bit
        kind = self._hash((code, how, status, events))
        hits = self.hits
        hits.append(kind & _MASK)
        hits.append((kind ^ (self._last >> 1)) & _MASK)
        self._last = kind
