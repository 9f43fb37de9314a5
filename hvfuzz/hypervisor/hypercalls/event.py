"""Event channels: ports, connected in pairs. The pending bit of a port stays set until the port is closed."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hvfuzz.abi.declaration import hypercall
from hvfuzz.abi.kinds import DomainRef, PortArg
from hvfuzz.abi.limits import PORTS_PER_BUCKET
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.domains import Bucket, Port, PortState
from hvfuzz.hypervisor.core.effects import Effect, Refused, Step
from hvfuzz.hypervisor.core.host import HostArray
from hvfuzz.hypervisor.ipc import event_channels

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.cpu.vcpu import VCpu


def room_for(hv: Hypervisor, domain: Domain, port: int) -> tuple[Step, ...] | None:
    """The steps that allocate the bucket of `port`, none if it exists; None if no frame is free."""
    index = port // PORTS_PER_BUCKET
    if domain.buckets[index] is not None:
        return ()
    chosen = hv.allocator.choose(1)
    return None if chosen is None else (AllocateBucket(domain.id, index, chosen[0]),)


class AllocateBucket(NamedTuple):
    """Allocate bucket number `bucket` of `domain` in the free frame `page`."""

    domain: int
    bucket: int
    page: int

    def apply(self, hv: Hypervisor) -> None:
        """Take the page, with PORTS_PER_BUCKET free ports."""
        hv.allocator.take_heap_page(self.page)
        ports: HostArray[Port | None] = HostArray([None] * PORTS_PER_BUCKET, hv.host.work)
        hv.domains[self.domain].buckets[self.bucket] = Bucket(self.page, ports)


def leftover_bucket(domain: Domain, port: int) -> tuple[Step, ...]:
    """The step that frees the bucket of `port`; none if another port in it is allocated."""
    index = port // PORTS_PER_BUCKET
    free = event_channels.deref(domain.buckets[index]).ports.count(None)
    return (FreeBucket(domain.id, index),) if free == PORTS_PER_BUCKET - 1 else ()


class FreeBucket(NamedTuple):
    """Free bucket number `bucket` of `domain`, which has no allocated port."""

    domain: int
    bucket: int

    def apply(self, hv: Hypervisor) -> None:
        """Unlink the bucket, then free the page: no pointer to it may be left when it is freed."""
        buckets = hv.domains[self.domain].buckets
        page = event_channels.deref(buckets[self.bucket]).page
        buckets[self.bucket] = None
        hv.allocator.free_heap_page(page)


@hypercall(0x30, result="port", produces="port", errors=(Status.NO_DOMAIN, Status.LIMIT, Status.NO_MEMORY))
class Alloc:
    """Allocate the caller's lowest free port, for domain `remote` to bind to. `remote` may be the caller.

    - `NO_DOMAIN`: there is no domain `remote`.
    - `LIMIT`: all ports of the caller are in use.
    - `NO_MEMORY`: no host frame is free for a new bucket of ports.
    """

    remote: DomainRef

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """Checks, in order: domain, free port, page for its bucket."""
        remote = hv.resolve(caller, self.remote)
        if remote is None:
            return Refused(Status.NO_DOMAIN, "remote")
        port = event_channels.lowest_free_port(caller)
        if port < 0:
            return Refused(Status.LIMIT, "all ports taken")
        room = room_for(hv, caller, port)
        if room is None:
            return Refused(Status.NO_MEMORY, "no frame for a bucket")
        return Effect((*room, SetPort(caller.id, port, Port(PortState.UNBOUND, remote.id))), port)


class SetPort(NamedTuple):
    """Set `port` of `domain` to `entry`."""

    domain: int
    port: int
    entry: Port | None

    def apply(self, hv: Hypervisor) -> None:
        event_channels.set_port(hv, self.domain, self.port, self.entry)


@hypercall(
    0x31,
    result="local port",
    produces="port",
    errors=(Status.NO_DOMAIN, Status.NO_PORT, Status.LIMIT, Status.NO_MEMORY),
)
class Bind:
    """Connect the caller's lowest free port to `port` of domain `remote`, which waits for the caller.

    - `NO_DOMAIN`: there is no domain `remote`.
    - `NO_PORT`: `port` is not allocated, is connected, or waits for another domain.
    - `LIMIT`: all ports of the caller are in use.
    - `NO_MEMORY`: no host frame is free for a new bucket of ports.
    """

    remote: DomainRef
    port: PortArg

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """Checks, in order: domain, remote port, free local port, page for its bucket."""
        remote = hv.resolve(caller, self.remote)
        if remote is None:
            return Refused(Status.NO_DOMAIN, "remote")
        entry = event_channels.lookup(remote, self.port)
        # Without this check, a domain could take a port that is connected, or offered to another domain.
        if entry is None or entry.state is not PortState.UNBOUND or entry.remote != caller.id:
            return Refused(Status.NO_PORT, "port does not wait for the caller")
        local = event_channels.lowest_free_port(caller)
        if local < 0:
            return Refused(Status.LIMIT, "all ports taken")
        room = room_for(hv, caller, local)
        if room is None:
            return Refused(Status.NO_MEMORY, "no frame for a bucket")
        return Effect((*room, Connect(caller.id, local, remote.id, self.port)), local)


class Connect(NamedTuple):
    """Connect the free `port` of `domain` to the unbound `remote_port` of `remote`."""

    domain: int
    port: int
    remote: int
    remote_port: int

    def apply(self, hv: Hypervisor) -> None:
        """Set both ends in one step: the two ports of a pair always refer to each other."""
        event_channels.attach(hv, self.remote, self.remote_port, self.domain, self.port)
        event_channels.set_port(hv, self.domain, self.port, Port(PortState.CONNECTED, self.remote, self.remote_port))


@hypercall(0x32, errors=(Status.NO_PORT,))
class Send:
    """Send an event through `port`.

    The peer of `port` becomes pending. In the peer's domain, the lowest-numbered vCPU that is blocked, is halted, or
    polls the peer becomes runnable (see Waiting).

    - `NO_PORT`: `port` is not connected.
    """

    port: PortArg

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """Refuse a port that is not connected."""
        entry = event_channels.lookup(caller, self.port)
        # An unbound port has no peer: its `remote_port` is -1, no valid index.
        if entry is None or entry.state is not PortState.CONNECTED:
            return Refused(Status.NO_PORT, "port not connected")
        return Effect((event_channels.Deliver(entry.remote, entry.remote_port),))


@hypercall(0x33, errors=(Status.NO_PORT,))
class Close:
    """Free `port`.

    Its peer, if it has one, keeps its pending bit and waits for the caller again. Every vCPU of the caller that polls
    `port` becomes runnable. If it was the last port of its bucket, the frame of the bucket becomes free.

    - `NO_PORT`: `port` is not allocated.
    """

    port: PortArg

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """Refuse a port that is not allocated."""
        if event_channels.lookup(caller, self.port) is None:
            return Refused(Status.NO_PORT, "port not allocated")
        return Effect((Disconnect(caller.id, self.port), *leftover_bucket(caller, self.port)))


class Disconnect(NamedTuple):
    """Free `port` of `domain`, make its peer, if any, unbound, and wake the vCPUs that poll on `port`."""

    domain: int
    port: int

    def apply(self, hv: Hypervisor) -> None:
        """Change both ends in one step; the peer keeps its pending event."""
        domain = hv.domains[self.domain]
        entry = event_channels.port_entry(domain, self.port)
        if entry is not None and entry.state is PortState.CONNECTED:
            event_channels.detach(hv, entry.remote, entry.remote_port)
        event_channels.set_port(hv, self.domain, self.port, None)
        hv.scheduler.port_closed(domain.vcpus, self.port)
