"""The virtual clock, coarse, and limited in how often a domain may read it (see Time)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hvfuzz.abi.declaration import hypercall
from hvfuzz.abi.limits import CLOCK_READS, CLOCK_WINDOW
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.effects import Effect, Refused
from hvfuzz.hypervisor.vcpu.guest_clock import quantised, reads_in

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.cpu.vcpu import VCpu


class CountRead(NamedTuple):
    """Record that `domain` has read the clock `reads` times in window number `window`."""

    domain: int
    window: int
    reads: int

    def apply(self, hv: Hypervisor) -> None:
        domain = hv.domains[self.domain]
        domain.clock_window = self.window
        domain.clock_reads = self.reads


@hypercall(0x50, result="cycles", errors=(Status.AGAIN,))
class ClockRead:
    """Read the virtual clock, rounded down to a multiple of 4096 cycles.

    - `AGAIN`: the domain has read the clock 4 times in the current window of 65536 cycles.
    """

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """Refuse if the domain has used up its reads of this window."""
        now = hv.machine.clock.cycles
        window = now // CLOCK_WINDOW
        reads = reads_in(caller, window)
        # Without this check, a guest could find the moment of each tick by reading often: a fine clock.
        if reads >= CLOCK_READS:
            return Refused(Status.AGAIN, "clock read too often")
        return Effect((CountRead(caller.id, window, reads + 1),), quantised(now))
