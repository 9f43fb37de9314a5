"""The hypervisor's record of a domain: its tables, pool, grants, mappings, ports and virtual CPUs.

Table entries are immutable tuples, replaced on each change. So tables are compared, and restored from a snapshot, at
the speed of a list copy.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from hvfuzz.abi.limits import BUCKETS, GRANTS, HANDLES
from hvfuzz.hypervisor.core.host import HostArray, Work

if TYPE_CHECKING:
    from hvfuzz.hypervisor.devices.device_model import DomainDevices
    from hvfuzz.hypervisor.memory.dma import DmaMap
    from hvfuzz.hypervisor.memory.stage2 import Stage2
    from hvfuzz.machine.cpu.vcpu import VCpu


class Grant(NamedTuple):
    """A live grant entry: domain `to` may map host frame `frame` with `rights`; `gfn` is its place in the granter.

    `host_pins` and `device_pins` count the mappings made from it, by side.
    """

    gfn: int
    frame: int
    to: int
    rights: int
    host_pins: int = 0
    device_pins: int = 0


class Mapping(NamedTuple):
    """A live handle: where the mapper has a granted frame; `host` and `device` say which sides are mapped."""

    granter: int
    ref: int
    host: bool
    device: bool
    gfn: int
    iova: int
    frame: int
    rights: int


class PortState(IntEnum):
    """State of an allocated event port."""

    UNBOUND = 0
    CONNECTED = 1


class Port(NamedTuple):
    """An allocated event port; `remote_port` is -1 while it is unbound."""

    state: PortState
    remote: int
    remote_port: int = -1
    pending: bool = False


class Bucket:
    """PORTS_PER_BUCKET ports, and the host frame of the heap page charged for them."""

    __slots__ = ("page", "ports")

    def __init__(self, page: int, ports: HostArray[Port | None]) -> None:
        self.page = page
        self.ports = ports


class Domain:
    """One domain. `pool` holds the host frames of its free table pages; `version` is the negotiated ABI version.

    `clock_reads` counts the clock reads in window number `clock_window`.
    """

    __slots__ = (
        "buckets",
        "canary",
        "clock_reads",
        "clock_window",
        "console",
        "devices",
        "dma",
        "grants",
        "handles",
        "id",
        "pool",
        "privileged",
        "stage2",
        "vcpus",
        "version",
    )

    def __init__(
        self,
        id: int,
        *,
        privileged: bool,
        version: int,
        canary: int,
        pool: list[int],
        stage2: Stage2,
        dma: DmaMap,
        devices: DomainDevices,
        work: Work,
    ) -> None:
        self.id = id
        self.privileged = privileged
        self.version = version
        self.canary = canary
        self.pool = pool
        self.stage2 = stage2
        self.dma = dma
        self.vcpus: list[VCpu] = []
        self.grants: HostArray[Grant | None] = HostArray([None] * GRANTS, work)
        self.handles: HostArray[Mapping | None] = HostArray([None] * HANDLES, work)
        self.buckets: HostArray[Bucket | None] = HostArray([None] * BUCKETS, work)
        self.console = bytearray()
        self.devices = devices
        self.clock_window = 0
        self.clock_reads = 0
