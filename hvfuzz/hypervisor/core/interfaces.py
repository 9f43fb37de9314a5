"""Narrow views of the hypervisor's state: each low-level function takes only the view that it needs.

`Hypervisor` satisfies all of them; the type checker verifies this at each call. Steps and exit handlers take
`Hypervisor` itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from hvfuzz.hypervisor.memory.guest_access import GuestMemory

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.hypervisor.core.host import HostArray, HostMemory
    from hvfuzz.hypervisor.memory.allocator import Allocator
    from hvfuzz.hypervisor.memory.frames import FrameTable
    from hvfuzz.hypervisor.vcpu.scheduler import Scheduler
    from hvfuzz.machine.machine import Machine


class Frames(Protocol):
    """Owner, state and reference counts of each frame."""

    @property
    def frames(self) -> FrameTable: ...


class Domains(Protocol):
    """All domains, by number."""

    @property
    def domains(self) -> HostArray[Domain]: ...


class GrantTables(Frames, Domains, Protocol):
    """Grant entries and mappings, and the frames they pin."""


class StringIo(Domains, GuestMemory, Protocol):
    """The device models of every domain, and guest memory to and from which strings of elements go."""


class Wakeup(Domains, Protocol):
    """Domains, and the scheduler that makes their vCPUs runnable."""

    @property
    def scheduler(self) -> Scheduler: ...


class ClockSource(Wakeup, Protocol):
    """The virtual clock, and each domain's count of clock reads."""

    @property
    def machine(self) -> Machine: ...


class Apics(Wakeup, Protocol):
    """The registers of every local APIC, in host memory."""

    @property
    def host(self) -> HostMemory: ...

    @property
    def apics(self) -> HostArray[int]: ...


class ApicTimers(Apics, ClockSource, Protocol):
    """Local APICs and their timers (vCPU id -> when the count reaches zero)."""

    @property
    def apic_timers(self) -> dict[int, int]: ...


class ApicPages(Apics, Protocol):
    """Local APICs, and the allocator of their register pages."""

    @property
    def allocator(self) -> Allocator: ...
