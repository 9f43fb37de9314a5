"""The abstraction function: maps the present state of the machine to the cells of the specification.

Frames, pages and device pages come from the shadow, hence from the bytes of the frame table and the page tables.
Grants, ports and other structures of the hypervisor are read directly. No code of the hypervisor runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from hvfuzz.abi.limits import PORTS_PER_BUCKET
from hvfuzz.hypervisor.core.domains import Port as HypervisorPort
from hvfuzz.hypervisor.core.domains import PortState as HypervisorPortState
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.oracles.contract.spec import (
    HOST_FRAME,
    ClockWindow,
    Frame,
    Grant,
    Handle,
    IoPage,
    Key,
    Page,
    Port,
    PortState,
    RunState,
    Value,
)
from hvfuzz.oracles.shadow.changes import DMA, Leaf
from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

if TYPE_CHECKING:
    from hvfuzz.oracles.scene.scene import Scene

FREE: Final = int(FrameState.FREE)
OWNED: Final = int(FrameState.OWNED)
SHARED: Final = int(FrameState.SHARED)
STATE: Final = 0xFF00
"""The state field of a frame word; 0 is FREE."""
# Members of enumerations cost more to look up than globals.
HYPERVISOR_CONNECTED: Final = HypervisorPortState.CONNECTED
CONNECTED: Final = PortState.CONNECTED
UNBOUND: Final = PortState.UNBOUND
STATES: Final = tuple(RunState(number) for number in range(4))


class Abstraction:
    """Reads cells of the machine."""

    __slots__ = ("_domains", "_readers", "_scene", "_shadow")

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        self._scene: Final = scene
        self._shadow: Final = shadow
        self._domains: Final = shadow.domains
        self._readers: Final[dict[str, Any]] = {
            "version": self._version,
            "vcpu": self._vcpu,
            "page": self._page,
            "iova": self._io_page,
            "frame": self._frame,
            "free": self._free,
            "pool": self._pool,
            "grant": self._grant,
            "handle": self._handle,
            "bucket": self._bucket,
            "port": self._port,
            "device": self._device,
            "reserved": self._reserved,
            "clock_window": self._clock_window,
            "console": self._console,
        }

    def cell(self, key: Key) -> Value:
        """The value of one cell; None if it does not exist."""
        return self._readers[key[0]](*key[1:])

    def cells(self) -> dict[Key, Value]:
        """All cells that exist."""
        shadow = self._shadow
        cells: dict[Key, Value] = {
            ("frame", hfn): frame_of(word) for hfn, word in enumerate(shadow.frames.values) if word & STATE
        }
        for word in shadow.entries:
            leaf = shadow.leaf(word)
            if leaf is not None:
                cells.update(pages_of(leaf))
        for key in self._small_keys():
            value = self.cell(key)
            if value is not None:
                cells[key] = value
        return cells

    def _small_keys(self) -> Iterator[Key]:
        """The keys of all cells except those of frames and pages; some may not exist."""
        yield ("free",)
        for domain in self._domains:
            number = domain.id
            yield from (("version", number), ("pool", number), ("clock_window", number), ("console", number))
            for index in range(len(domain.vcpus)):
                yield "vcpu", number, index
            for name, table in (("grant", self._shadow.grants), ("handle", self._shadow.handles)):
                for index, entry in enumerate(table[number]):
                    if entry is not None:
                        yield name, number, index
            for index, bucket in enumerate(list.__iter__(domain.buckets)):
                if bucket is not None:
                    yield "bucket", number, index
                    for port in range(index * PORTS_PER_BUCKET, (index + 1) * PORTS_PER_BUCKET):
                        yield "port", number, port
        for device in range(len(self._scene.machine.devices)):
            yield "device", device
            yield "reserved", device

    # Readers of one cell.

    def _version(self, number: int) -> int:
        version: int = self._domains[number].version
        return version

    def _vcpu(self, number: int, index: int) -> RunState | int:
        return run_state(self._domains[number].vcpus[index].runnable)

    def _leaf(self, space: int, page: int) -> tuple[int, int, bool] | None:
        leaf = self._shadow.find(space, page)
        if leaf is None:
            return None
        return leaf.frame + (page & leaf.frames - 1), leaf.rights, leaf.foreign

    def _page(self, number: int, gfn: int) -> Page | None:
        leaf = self._leaf(number, gfn)
        return None if leaf is None else Page(*leaf)

    def _io_page(self, number: int, page: int) -> IoPage | None:
        leaf = self._leaf(number | DMA, page)
        return None if leaf is None else IoPage(*leaf)

    def _frame(self, hfn: int) -> Frame | None:
        if not 0 <= hfn < len(self._shadow.frames.values):
            return None
        return frame_of(self._shadow.frames.values[hfn])

    def _free(self) -> int:
        return self._shadow.state_counts[FREE]

    def _pool(self, number: int) -> int:
        return len(self._domains[number].pool)

    def _grant(self, number: int, ref: int) -> Grant | None:
        entry = self._shadow.grants[number][ref]
        return None if entry is None else Grant(*entry)

    def _handle(self, number: int, handle: int) -> Handle | None:
        mapping = self._shadow.handles[number][handle]
        return None if mapping is None else Handle(*mapping)

    def _bucket(self, number: int, index: int) -> int | None:
        bucket = list.__getitem__(self._domains[number].buckets, index)
        return None if bucket is None else bucket.page

    def _port(self, number: int, port: int) -> Port | None:
        buckets = self._domains[number].buckets
        index = port // PORTS_PER_BUCKET
        if index >= len(buckets):
            return None
        bucket = list.__getitem__(buckets, index)
        entry = None if bucket is None else list.__getitem__(bucket.ports, port % PORTS_PER_BUCKET)
        return port_of(entry)

    def _device(self, number: int) -> int | None:
        domain = self._shadow.device_domain(self._scene.machine.devices[number].bdf)
        return None if domain < 0 else domain

    def _reserved(self, number: int) -> range | None:
        # From the configuration: the hypervisor's own idea of reserved memory is under judgement.
        for device, base, pages in self._scene.world.reserved:
            if device == number:
                return range(base >> PAGE_SHIFT, (base >> PAGE_SHIFT) + pages)
        return None

    def _clock_window(self, number: int) -> ClockWindow | None:
        domain = self._domains[number]
        return ClockWindow(domain.clock_window, domain.clock_reads) if domain.clock_reads else None

    def _console(self, number: int) -> bytes | None:
        return bytes(self._domains[number].console) or None


def port_of(entry: HypervisorPort | None) -> Port | None:
    """The value of the port cell for an entry of a bucket."""
    if entry is None:
        return None
    state, remote, remote_port, pending = entry
    if state is HYPERVISOR_CONNECTED:
        return Port(CONNECTED, remote, remote_port, pending)
    return Port(UNBOUND, remote, 0, pending)


@lru_cache(maxsize=1024)
def frame_of(word: int) -> Frame | None:
    """The value of the frame cell for a frame word."""
    state = word >> 8 & 0xFF
    if state == FREE:
        return None
    if state in (OWNED, SHARED):
        return Frame(word & 0xFF, word >> 16 & 0xFFFF, word >> 32 & 0xFFFF, word >> 48)
    return HOST_FRAME


def keys_of(space: int, level: int, page: int) -> Iterator[Key]:
    """The keys of the cells of the pages that a leaf maps."""
    name, domain = ("iova", space & ~DMA) if space & DMA else ("page", space)
    for number in range(page, page + (1 << 9 * (level - 1))):
        yield name, domain, number


def pages_of(leaf: Leaf) -> Iterator[tuple[Key, Page | IoPage]]:
    """The cells of the pages that a leaf maps, as pairs of key and value."""
    _, space, level, page, frame, rights, foreign = leaf
    if space & DMA:
        number = space & ~DMA
        for offset in range(1 << 9 * (level - 1)):
            yield ("iova", number, page + offset), IoPage(frame + offset, rights, foreign)
    else:
        for offset in range(1 << 9 * (level - 1)):
            yield ("page", space, page + offset), Page(frame + offset, rights, foreign)


def run_state(number: int) -> RunState | int:
    """The run state with this number. An unknown number is returned as it is, and differs from every run state."""
    return STATES[number] if number in range(len(STATES)) else number
