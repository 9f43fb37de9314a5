"""Event ports of a domain: how they are found, and the steps that change them.

Ports live in buckets of 32; a bucket is a hypervisor page that comes with the first port in it and goes with the
last.  So a port number is looked up in two steps, and the first may find nothing: `lookup` checks, then
dereferences (as Xen's `port_is_valid` and `evtchn_from_port`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hvfuzz.abi.limits import PORTS, PORTS_PER_BUCKET
from hvfuzz.hypervisor.core.domains import Bucket, Port, PortState
from hvfuzz.hypervisor.core.host import HostBug, HostFault

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.hypervisor.core.interfaces import Domains, Wakeup


def port_is_valid(domain: Domain, port: int) -> bool:
    """Whether there is a bucket for `port`: what must hold before `port_entry`."""
    return port < PORTS and domain.buckets[port // PORTS_PER_BUCKET] is not None


def deref(bucket: Bucket | None) -> Bucket:
    """Follow a bucket pointer; a null pointer in the host is a fault in the host."""
    if bucket is None:
        raise HostFault("null bucket dereferenced")
    return bucket


def port_entry(domain: Domain, port: int) -> Port | None:
    """The entry of a valid `port`; None while it is free."""
    return deref(domain.buckets[port // PORTS_PER_BUCKET]).ports[port % PORTS_PER_BUCKET]


def lookup(domain: Domain, port: int) -> Port | None:
    """The entry of `port`, None if it is free or there is no such port: every call but poll comes through here."""
    return port_entry(domain, port) if port_is_valid(domain, port) else None


def lowest_free_port(domain: Domain) -> int:
    """The lowest free port number, in a bucket that may yet have to be allocated; -1 if all are taken."""
    for index, bucket in enumerate(domain.buckets):
        free = 0 if bucket is None else bucket.ports.lowest_free()
        if free >= 0:
            return index * PORTS_PER_BUCKET + free
    return -1


def any_pending(domain: Domain) -> bool:
    """Whether an event came in on any port of the domain."""
    return any(
        entry is not None and entry.pending for bucket in domain.buckets if bucket is not None for entry in bucket.ports
    )


class Deliver(NamedTuple):
    """An event comes in on `port` of `domain`."""

    domain: int
    port: int

    def apply(self, hv: Wakeup) -> None:
        """Set the pending bit, then wake who waits."""
        domain = hv.domains[self.domain]
        entry = port_entry(domain, self.port)
        if entry is not None:
            set_port(hv, self.domain, self.port, entry._replace(pending=True))
        hv.scheduler.event(domain.vcpus, self.port)


def set_port(hv: Domains, domain: int, port: int, entry: Port | None) -> None:
    """Replace the entry of a port that has a bucket."""
    deref(hv.domains[domain].buckets[port // PORTS_PER_BUCKET]).ports[port % PORTS_PER_BUCKET] = entry


def attach(hv: Domains, domain: int, port: int, remote: int, remote_port: int) -> None:
    """The unbound `port` of `domain` becomes one end of a pair, the other being `remote_port` of `remote`."""
    entry = port_entry(hv.domains[domain], port)
    if entry is None or entry.state is not PortState.UNBOUND:
        raise HostBug("a checked port does not wait")
    set_port(hv, domain, port, Port(PortState.CONNECTED, remote, remote_port, entry.pending))


def detach(hv: Domains, domain: int, port: int) -> None:
    """The connected `port` of `domain` loses its peer, and waits for the peer's domain to bind it again."""
    entry = port_entry(hv.domains[domain], port)
    if entry is None:
        raise HostBug("a connected port has no peer")
    set_port(hv, domain, port, Port(PortState.UNBOUND, entry.remote, pending=entry.pending))
