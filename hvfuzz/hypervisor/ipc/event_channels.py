"""Event ports of a domain: lookup, and the operations that change them.

Ports lie in buckets of 32. A bucket is a heap page, allocated with its first port and freed with its last. So a lookup
has two steps, and the bucket may be missing: `lookup` checks, then dereferences (as Xen's `port_is_valid` and
`evtchn_from_port` do).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hvfuzz.abi.limits import PORTS, PORTS_PER_BUCKET
from hvfuzz.hypervisor.core.domains import Bucket, Port, PortState
from hvfuzz.hypervisor.core.host import HostBug, HostFault

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.hypervisor.core.interfaces import Domains, Wakeup


def port_is_valid(domain: Domain, port: int) -> bool:
    """Whether `port` has a bucket. To be checked before `port_entry` (XSA-221)."""
    return port < PORTS and domain.buckets[port // PORTS_PER_BUCKET] is not None


def deref(bucket: Bucket | None) -> Bucket:
    """Dereference a bucket pointer; `HostFault` if it is null."""
    if bucket is None:
        raise HostFault("null bucket dereferenced")
    return bucket


def port_entry(domain: Domain, port: int) -> Port | None:
    """The entry of a valid `port`; None if it is free."""
    return deref(domain.buckets[port // PORTS_PER_BUCKET]).ports[port % PORTS_PER_BUCKET]


def lookup(domain: Domain, port: int) -> Port | None:
    """The entry of `port`; None if it is free or does not exist. Every call except poll uses this."""
    return port_entry(domain, port) if port_is_valid(domain, port) else None


def lowest_free_port(domain: Domain) -> int:
    """The lowest free port number, whose bucket may have to be allocated first; -1 if all are taken."""
    for index, bucket in enumerate(domain.buckets):
        free = 0 if bucket is None else bucket.ports.lowest_free()
        if free >= 0:
            return index * PORTS_PER_BUCKET + free
    return -1


def any_pending(domain: Domain) -> bool:
    """Whether an event is pending on any port of the domain."""
    return any(
        entry is not None and entry.pending for bucket in domain.buckets if bucket is not None for entry in bucket.ports
    )


class Deliver(NamedTuple):
    """Deliver an event to `port` of `domain`."""

    domain: int
    port: int

    def apply(self, hv: Wakeup) -> None:
        """Set the pending bit, then wake a waiting vCPU: one that wakes must find the bit set."""
        domain = hv.domains[self.domain]
        entry = port_entry(domain, self.port)
        if entry is not None:
            set_port(hv, self.domain, self.port, entry._replace(pending=True))
        hv.scheduler.event(domain.vcpus, self.port)


def set_port(hv: Domains, domain: int, port: int, entry: Port | None) -> None:
    """Replace the entry of a valid port."""
    deref(hv.domains[domain].buckets[port // PORTS_PER_BUCKET]).ports[port % PORTS_PER_BUCKET] = entry


def attach(hv: Domains, domain: int, port: int, remote: int, remote_port: int) -> None:
    """Connect the unbound `port` of `domain` to `remote_port` of `remote`; a pending event stays pending."""
    entry = port_entry(hv.domains[domain], port)
    if entry is None or entry.state is not PortState.UNBOUND:
        raise HostBug("a checked port is not unbound")
    set_port(hv, domain, port, Port(PortState.CONNECTED, remote, remote_port, entry.pending))


def detach(hv: Domains, domain: int, port: int) -> None:
    """Disconnect `port` of `domain` from its peer: it becomes unbound, and the peer's domain may bind it again."""
    entry = port_entry(hv.domains[domain], port)
    if entry is None:
        raise HostBug("a connected port has no peer")
    set_port(hv, domain, port, Port(PortState.UNBOUND, entry.remote, pending=entry.pending))
