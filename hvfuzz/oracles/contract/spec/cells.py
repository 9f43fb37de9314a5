"""The cells of the abstract state, and the values that they hold.

An absent cell means "none of that". `Frame`, `Page` and so on are the values; `d` is a domain.

| cell                 | value        | meaning                                                             |
|----------------------|--------------|---------------------------------------------------------------------|
| ("version", d)       | int          | negotiated version; the domain exists if the cell does              |
| ("vcpu", d, i)       | RunState     | every vCPU of every domain has the cell                             |
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
| ("reserved", id)     | range        | device pages that firmware keeps for the device; never changes      |
| ("window", id)       | int          | ghost: the device page at which its domain maps its registers       |
| ("clock_window", d)  | ClockWindow  | the latest window in which d read the clock, and how often          |
| ("console", d)       | bytes        | the last 256 bytes that d wrote with `console.write`                |

A ghost cell is the specification's own: there is nothing in the machine to compare it with.
Values are normal where the contract leaves freedom: the remote port of an unbound port is 0, and so are the
gfn (iova) of a handle without a host (device) side.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

HYPERVISOR: Final = 0xFE
"""The owner of the hypervisor's own frames: code, heap, table pages, pools, event buckets."""
NOBODY: Final = 0xFF


class RunState(IntEnum):
    """What a vCPU does; only a runnable one makes calls."""

    RUNNABLE = 0
    BLOCKED = 1
    POLLING = 2
    HALTED = 3
    STOPPED = 4


class PortState(IntEnum):
    """An allocated port waits for its remote domain to bind it, or is one end of a pair."""

    UNBOUND = 1
    CONNECTED = 2


class Poll(NamedTuple):
    """A vCPU that polls waits for one of `ports`, in virtual cycles at least until `deadline`, at most until `latest`.

    The time that it asked for begins somewhere within the call.
    """

    ports: tuple[int, ...]
    deadline: int
    latest: int


class Page(NamedTuple):
    """A stage-2 mapping of guest RAM; `foreign` if a grant made it."""

    frame: int
    rights: int
    foreign: bool


class IoPage(NamedTuple):
    """A mapping in a domain's IOMMU table; `foreign` if a grant made it."""

    frame: int
    rights: int
    foreign: bool


class Frame(NamedTuple):
    """A frame in use: leaf mappings that name it, grant-mapping sides on it, live grant entries for it."""

    owner: int
    maps: int
    pins: int
    grants: int


class Grant(NamedTuple):
    """A grant entry, and how many mappings of each side are made from it."""

    gfn: int
    frame: int
    to: int
    rights: int
    host_pins: int
    device_pins: int


class Handle(NamedTuple):
    """A grant mapping: the entry it was made from, the sides that it still has, and where they are."""

    granter: int
    ref: int
    host: bool
    device: bool
    gfn: int
    iova: int
    frame: int
    rights: int


class Port(NamedTuple):
    """An event port; `remote_port` is 0 until it is connected."""

    state: PortState
    remote: int
    remote_port: int
    pending: bool


class ClockWindow(NamedTuple):
    """Window `number` (cycles // 65536) saw `reads` granted reads of the clock."""

    number: int
    reads: int


HOST_FRAME: Final = Frame(HYPERVISOR, 0, 0, 0)
FREE_FRAME: Final = Frame(NOBODY, 0, 0, 0)
