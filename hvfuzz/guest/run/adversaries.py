"""Execution of each op that is no act of a guest: what the hardware, or the host around the hypervisor, may do."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, TypeAlias

from hvfuzz.guest.run.instructions import Unreachable
from hvfuzz.machine.cached_entries import Cache, evict, retain
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.machine.machine import Machine

Adversary: TypeAlias = Callable[[Machine, VCpu, Sequence[int]], None]


def _cache(number: int) -> Cache:
    if number >= len(Cache):
        raise Unreachable
    return Cache(number)


def _set_capacity(machine: Machine, _vcpu: VCpu, values: Sequence[int]) -> None:
    machine.tlb.set_capacity(values[0])
    machine.iommu.set_capacity(values[0])


def _deny(machine: Machine, _vcpu: VCpu, values: Sequence[int]) -> None:
    machine.shortage.waiting = values[0]


def _retain(machine: Machine, _vcpu: VCpu, values: Sequence[int]) -> None:
    retain(machine, _cache(values[0]), values[1])


def _evict(machine: Machine, _vcpu: VCpu, values: Sequence[int]) -> None:
    evict(machine, _cache(values[0]), values[1])


ADVERSARIES: Final[Mapping[str, Adversary]] = MappingProxyType(
    {"tlb": _set_capacity, "deny": _deny, "retain": _retain, "evict": _evict}
)
