"""The guest's time-stamp counter: the same coarse clock as `time.clock_read`, read by instructions.

RDTSC, RDTSCP and RDMSR of the TSC cause an exit, and count as reads of the domain's clock. Where `time.clock_read`
would return AGAIN, the vCPU waits until the next window begins, since an instruction cannot be refused. So no guest
reads its clock more often than the contract allows, and time never goes back. All else that tells time goes by `ticks`.
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
    """Number of clock reads by `caller` in window number `window`."""
    return caller.clock_reads if caller.clock_window == window else 0


def quantised(cycles: int) -> int:
    """Round `cycles` down to the clock grain: the low bits would reveal how long the host's own work takes."""
    return cycles - cycles % CLOCK_GRAIN


def read_clock(hv: ClockSource, vcpu: VCpu) -> int:
    """Read the clock of the domain of `vcpu`: rounded cycles. Counts the read, after a wait if the quota is used up."""
    domain = hv.domains[vcpu.domain]
    window, passed = divmod(hv.machine.clock.cycles, CLOCK_WINDOW)
    if reads_in(domain, window) >= CLOCK_READS:
        hv.scheduler.sleep(CLOCK_WINDOW - passed)
        window += 1
    domain.clock_reads = reads_in(domain, window) + 1
    domain.clock_window = window
    return quantised(hv.machine.clock.cycles)


def read_counter(hv: ClockSource, vcpu: VCpu) -> int:
    """Time-stamp counter of `vcpu`: clock plus TSC offset, modulo 2^64 (SDM Vol. 3C, 25.6.5)."""
    return read_clock(hv, vcpu) + vcpu.vmcs.tsc_offset & U64


def write_counter(hv: ClockSource, vcpu: VCpu, value: int) -> None:
    """Set the counter of `vcpu` to `value` by its TSC offset; reveals no time, so it is not counted as a read."""
    vcpu.vmcs.tsc_offset = value - quantised(hv.machine.clock.cycles) & U64
