"""Scheduling of virtual CPUs: calls that yield, wait for events, or wake another vCPU of the domain."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from hvfuzz.abi.declaration import hypercall
from hvfuzz.abi.kinds import Count, PortArray, Timeout, VcpuArg
from hvfuzz.abi.limits import POLL
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.effects import Effect, Refused
from hvfuzz.hypervisor.ipc import event_channels
from hvfuzz.hypervisor.memory import guest_access

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain, Port
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.cpu.vcpu import VCpu

PORT_NUMBER = struct.Struct("<I")


class EndSlice(NamedTuple):
    """Give up the rest of the time slice."""

    def apply(self, hv: Hypervisor) -> None:
        hv.scheduler.end_slice()


class BlockVcpu(NamedTuple):
    """Block a vCPU until an event of its domain."""

    domain: int
    vcpu: int

    def apply(self, hv: Hypervisor) -> None:
        hv.scheduler.block(hv.domains[self.domain].vcpus[self.vcpu])


class WakeVcpu(NamedTuple):
    """Make a waiting vCPU runnable."""

    domain: int
    vcpu: int

    def apply(self, hv: Hypervisor) -> None:
        hv.scheduler.wake(hv.domains[self.domain].vcpus[self.vcpu])


class PollPorts(NamedTuple):
    """Stop a vCPU until an event on one of `ports`, or for `timeout` cycles, in whole ticks."""

    domain: int
    vcpu: int
    ports: tuple[int, ...]
    timeout: int

    def apply(self, hv: Hypervisor) -> None:
        hv.scheduler.poll(hv.domains[self.domain].vcpus[self.vcpu], self.ports, self.timeout)


def polled_port(domain: Domain, port: int) -> Port | None:
    """The entry of a port to poll; None if it is not allocated."""
    # Without this check, a guest could have the host dereference a null bucket (XSA-221).
    if not event_channels.port_is_valid(domain, port):
        return None
    return event_channels.port_entry(domain, port)


@hypercall(0x40)
class Yield:
    """Give up the rest of the time slice: the clock advances by one slice, 16384 cycles."""

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """Always succeeds."""
        return YIELDED


YIELDED = Effect((EndSlice(),))


@hypercall(0x41, errors=(Status.AGAIN,))
class Block:
    """Block the vCPU until an event arrives on any port of its domain, or until `sched.kick`.

    Nothing else ends the wait (see Waiting).

    - `AGAIN`: an event is pending.
    """

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """Refuse while an event is pending."""
        # Without this check, a vCPU could sleep through an event that came after the guest last looked.
        if event_channels.any_pending(caller):
            return Refused(Status.AGAIN, "event pending")
        return Effect((BlockVcpu(caller.id, vcpu.index),))


@hypercall(0x42, result="1 if this ended a wait", errors=(Status.INVALID,))
class Kick:
    """Make a vCPU of the caller runnable, whatever it waits for. A triple fault stops a vCPU for ever.

    - `INVALID`: the caller has no vCPU of this number.
    """

    vcpu: VcpuArg

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """Refuse a number that is not one of the caller's vCPUs."""
        # Without this check, a guest could index beyond its list of vCPUs.
        if self.vcpu >= len(caller.vcpus):
            return Refused(Status.INVALID, "no such vcpu")
        if not hv.scheduler.waits(caller.vcpus[self.vcpu]):
            return Effect()
        return Effect((WakeVcpu(caller.id, self.vcpu),), 1)


@hypercall(
    0x43,
    result="1 + index of the first pending port, 0 if the vCPU polled",
    errors=(Status.INVALID, Status.FAULT, Status.NO_PORT, Status.AGAIN),
)
class Poll:
    """Wait for an event on one of `count` (at most 16) ports, for `timeout` cycles.

    The call does not wait if one of the ports is pending, or if `timeout` is 0. The vCPU becomes runnable by an event
    on one of the ports, when one of them is closed, when its time is over, or by `sched.kick` (see Waiting). Its time
    is a deadline, which counts whole ticks (see Time).

    - `INVALID`: `count` is 0 or above 16.
    - `FAULT`: `ports` is not readable.
    - `NO_PORT`: one of the ports is not allocated.
    - `AGAIN`: no port is pending, and `timeout` is 0.
    """

    ports: PortArray
    count: Count
    timeout: Timeout

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """Checks, in order: number of ports, array, each port; then answers at once if a port is pending."""
        if not 0 < self.count <= POLL:
            return Refused(Status.INVALID, "number of ports")
        array = guest_access.copy_from_guest(hv, vcpu, self.ports, self.count * PORT_NUMBER.size)
        if array is None:
            return Refused(Status.FAULT, "ports unreadable")
        numbers = tuple(port for (port,) in PORT_NUMBER.iter_unpack(array))
        first_pending = 0
        for index, port in enumerate(numbers, 1):
            entry = polled_port(caller, port)
            if entry is None:
                return Refused(Status.NO_PORT, "port not allocated")
            if entry.pending and not first_pending:
                first_pending = index
        if first_pending:
            return Effect((), first_pending)
        if self.timeout == 0:
            return Refused(Status.AGAIN, "nothing pending")
        return Effect((PollPorts(caller.id, vcpu.index, numbers, self.timeout),))
