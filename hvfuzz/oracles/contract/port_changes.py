"""Finds the event ports, and the buckets that hold them, that changed since they were last compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hvfuzz.abi.limits import PORTS_PER_BUCKET
from hvfuzz.oracles.contract.abstraction import port_of
from hvfuzz.oracles.contract.spec import Key, Value
from hvfuzz.oracles.shadow.changes import differences

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hvfuzz.hypervisor.core.domains import Bucket, Domain
    from hvfuzz.hypervisor.core.host import Work

NO_PORTS: Final[list[Any]] = [None] * PORTS_PER_BUCKET


class PortChanges:
    """Compares the hypervisor's buckets and ports with copies. Each change is reported once.

    A port is replaced when it changes, so lists of ports compare by identity, and the ports themselves are not copied.
    """

    __slots__ = (
        "_base_buckets",
        "_base_known",
        "_base_ports",
        "_buckets",
        "_domains",
        "_known_ports",
        "_live",
        "_live_buckets",
        "_ports",
        "_stores",
        "_work",
    )

    def __init__(self, domains: Sequence[Domain], work: Work) -> None:
        self._domains: Final = domains
        self._work: Final = work
        self._stores = 0
        """Stores of the host when ports were last compared: while it makes none, no port changes."""
        self._live_buckets: list[list[Bucket | None]] = []
        """The hypervisor's own array of buckets of each domain."""
        self._live: list[Bucket] = []
        """The existing buckets, in the order of `_ports`."""
        self._buckets: list[list[Bucket | None]] = []
        """The buckets of each domain when last compared."""
        self._ports: dict[tuple[int, int], list[Any]] = {}
        """(domain, bucket) -> its ports when last compared."""
        self._known_ports: list[list[Any]] = []
        """The values of `_ports`."""
        self._base_buckets: list[list[Bucket | None]] = []
        self._base_ports: dict[tuple[int, int], list[Any]] = {}
        self._base_known: list[list[Any]] = []

    def attach(self) -> None:
        """Take the present buckets and ports as the base."""
        self._live_buckets = [domain.buckets for domain in self._domains]
        self._base_buckets = [list(buckets) for buckets in self._live_buckets]
        self._base_ports = {
            (number, index): list(bucket.ports)
            for number, buckets in enumerate(self._base_buckets)
            for index, bucket in enumerate(buckets)
            if bucket is not None
        }
        self._base_known = list(self._base_ports.values())
        self._restore()

    def reset(self) -> None:
        """Return to the base, as the machine has done."""
        if self._buckets != self._base_buckets or self._known_ports != self._base_known:
            self._restore()
        self._stores = self._work.stores

    def _restore(self) -> None:
        self._buckets = list(self._base_buckets)
        self._ports = dict(self._base_ports)
        self._find_live()

    def _find_live(self) -> None:
        """Rebuild what follows from the keys of `_ports`."""
        found = [self._buckets[number][index] for number, index in self._ports]
        self._live = [bucket for bucket in found if bucket is not None]
        self._known_ports = list(self._ports.values())

    def add_to(self, actual: dict[Key, Value]) -> None:
        """Add the cells of the buckets and ports that changed to `actual`, with their values."""
        if self._work.stores == self._stores:
            return
        self._stores = self._work.stores
        if self._live_buckets != self._buckets:
            self._compare_buckets(actual)
        ports_now = [bucket.ports for bucket in self._live]
        if ports_now != self._known_ports:
            for (number, index), live in zip(list(self._ports), ports_now, strict=True):
                if live != self._ports[number, index]:
                    self._compare_ports(actual, number, index, live)
            self._known_ports = list(self._ports.values())

    def _compare_buckets(self, actual: dict[Key, Value]) -> None:
        """Add the buckets that were allocated or freed, with their ports."""
        saved = self._buckets
        for number, live in enumerate(self._live_buckets):
            if live != saved[number]:
                buckets = list(live)
                for index, _, new in differences(saved[number], buckets):
                    actual["bucket", number, index] = None if new is None else new.page
                    self._compare_ports(actual, number, index, None if new is None else new.ports)
                saved[number] = buckets
        self._find_live()

    def _compare_ports(self, actual: dict[Key, Value], number: int, index: int, ports: list[Any] | None) -> None:
        """Add the ports of one bucket that changed; `ports` is None if the bucket was freed."""
        before = self._ports.get((number, index)) or NO_PORTS
        after = NO_PORTS if ports is None else list(ports)
        first = index * PORTS_PER_BUCKET
        for offset, _, entry in differences(before, after):
            actual["port", number, first + offset] = port_of(entry)
        if ports is not None:
            self._ports[number, index] = after
        else:
            self._ports.pop((number, index), None)
