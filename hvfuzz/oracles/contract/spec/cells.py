"""The cells of the abstract state, and the values that they hold.

A cell that does not exist means that the machine has no such thing; `d` is a domain.

| cell                 | value        | meaning                                                             |
|----------------------|--------------|---------------------------------------------------------------------|
| ("version", d)       | int          | negotiated version; the domain exists if the cell does              |
| ("vcpu", d, i)       | RunState     | run state of vCPU i; exists for every vCPU                          |
| ("poll", d, i)       | Poll         | ghost: what a polling vCPU waits for                                |
| ("page", d, gfn)     | Page         | a RAM leaf of d's stage 2, one cell for each 4 KiB of a larger leaf |
| ("iova", d, page)    | IoPage       | a leaf of d's IOMMU table; page = iova >> 12                        |
| ("frame", hfn)       | Frame        | a frame in use, by a domain or by the hypervisor (HOST_FRAME)       |
| ("free",)            | int          | number of free host frames                                          |
| ("pool", d)          | int          | free table pages in d's pool; adopted, not predicted                |
| ("grant", d, ref)    | Grant        | a live grant entry of d                                             |
| ("handle", d, h)     | Handle       | a live grant mapping made by d                                      |
| ("bucket", d, i)     | Hfn          | the page that holds ports 32*i to 32*i+31 of d                      |
| ("port", d, p)       | Port         | an allocated port                                                   |
| ("device", id)       | int          | the domain that the device is assigned to                           |
| ("reserved", id)     | range        | device pages that firmware reserves for the device; constant        |
| ("window", id)       | int          | ghost: the device page that maps the device's registers             |
| ("clock_window", d)  | ClockWindow  | the latest window in which d read the clock                         |
| ("console", d)       | bytes        | the last 256 bytes that d wrote with `console.write`                |

A ghost cell exists in the specification only; the machine has no counterpart. Values are in normal form: the remote
port of an unbound port is 0, and so is the gfn (iova) of a handle without a host (device) side.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

HYPERVISOR: Final = 0xFE
"""Owner of the hypervisor's own frames: code, heap, table pages, pools, event buckets."""
NOBODY: Final = 0xFF
"""Owner of free frames."""


class RunState(IntEnum):
    """Run state of a vCPU. Only a runnable vCPU makes calls."""

    RUNNABLE = 0
    BLOCKED = 1
    POLLING = 2
    HALTED = 3
    STOPPED = 4


class PortState(IntEnum):
    """State of an allocated port: it waits for its remote domain to bind it, or is one end of a pair."""

    UNBOUND = 1
    CONNECTED = 2


class Poll(NamedTuple):
    """A vCPU polls `ports` at least until `deadline` and at most until `latest`, in virtual cycles, both whole ticks.

    The two differ because the timeout begins at an unknown time within the call.
    """

    ports: tuple[int, ...]
    deadline: int
    latest: int


class Page(NamedTuple):
    """A stage-2 mapping of guest RAM. `foreign`: a grant made it."""

    frame: int
    rights: int
    foreign: bool


class IoPage(NamedTuple):
    """A mapping in a domain's IOMMU table. `foreign`: a grant made it."""

    frame: int
    rights: int
    foreign: bool


class Frame(NamedTuple):
    """A frame in use: its owner, and the numbers of leaves, of grant-mapping sides and of live grant entries for it."""

    owner: int
    maps: int
    pins: int
    grants: int


class Grant(NamedTuple):
    """A grant entry, and the numbers of its mappings with a host side and with a device side."""

    gfn: int
    frame: int
    to: int
    rights: int
    host_pins: int
    device_pins: int


class Handle(NamedTuple):
    """A grant mapping: its entry, the sides that it still has, and their addresses."""

    granter: int
    ref: int
    host: bool
    device: bool
    gfn: int
    iova: int
    frame: int
    rights: int


class Port(NamedTuple):
    """An event port. `remote_port` is 0 while the port is unbound."""

    state: PortState
    remote: int
    remote_port: int
    pending: bool


class ClockWindow(NamedTuple):
    """The domain read the clock `reads` times in window `number` (cycles // 65536)."""

    number: int
    reads: int


HOST_FRAME: Final = Frame(HYPERVISOR, 0, 0, 0)
FREE_FRAME: Final = Frame(NOBODY, 0, 0, 0)
