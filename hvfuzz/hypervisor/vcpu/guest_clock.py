"""The time-stamp counter of a guest: the coarse clock of `time.clock_read`, by an instruction that cannot be refused.

RDTSC, RDTSCP and the MSR exit, and count as reads of the domain's clock. Where `time.clock_read` would say AGAIN,
they take long: the vCPU waits until the next window begins. So no guest reads its clock more often than the contract
allows, whatever way it takes, and time never stands still or goes back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvfuzz.abi.limits import CLOCK_GRAIN, CLOCK_READS, CLOCK_WINDOW
from hvfuzz.machine.addresses import U64

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.hypervisor.core.interfaces import ClockSource
    from hvfuzz.machine.cpu.vcpu import VCpu


def reads_in(caller: Domain, window: int) -> int:
    """How often `caller` has read the clock in window number `window`."""
    return caller.clock_reads if caller.clock_window == window else 0


def quantised(cycles: int) -> int:
    """The time that a guest is told: the low bits would show it the cost of the host's own work."""
    return cycles - cycles % CLOCK_GRAIN


def read_clock(hv: ClockSource, vcpu: VCpu) -> int:
    """The time that the domain of `vcpu` is told, in cycles, after the wait for it; counted as a read."""
    domain = hv.domains[vcpu.domain]
    window, passed = divmod(hv.machine.clock.cycles, CLOCK_WINDOW)
    if reads_in(domain, window) >= CLOCK_READS:
        hv.scheduler.sleep(CLOCK_WINDOW - passed)
        window += 1
    domain.clock_reads = reads_in(domain, window) + 1
    domain.clock_window = window
    return quantised(hv.machine.clock.cycles)


def read_counter(hv: ClockSource, vcpu: VCpu) -> int:
    """The time-stamp counter of `vcpu`."""
    return read_clock(hv, vcpu) + vcpu.vmcs.tsc_offset & U64


def write_counter(hv: ClockSource, vcpu: VCpu, value: int) -> None:
    """Have the counter of `vcpu` go on from `value`; this tells the guest nothing, and is no read."""
    vcpu.vmcs.tsc_offset = value - quantised(hv.machine.clock.cycles) & U64
