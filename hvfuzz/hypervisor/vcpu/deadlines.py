"""The next deadline of a vCPU: what a host's own timer would be set to while the vCPU runs or waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvfuzz.hypervisor.vcpu.ticks import whole_ticks

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.cpu.vcpu import VCpu


def next_deadline(hv: Hypervisor, vcpu: VCpu) -> int | None:
    """When the first of its poll, its APIC timer and the timer of its domain is over, in cycles; None without any.

    Deadlines are met at VM exits, so one that is over stays here until the next exit.
    """
    poll = hv.scheduler.polls.get(vcpu.id)
    timer = hv.timers.get(vcpu.domain)
    count = hv.apic_timers.get(vcpu.id)
    found = (
        None if poll is None else poll.deadline,
        None if count is None else whole_ticks(count),
        None if timer is None else timer.deadline,
    )
    return min((each for each in found if each is not None), default=None)
