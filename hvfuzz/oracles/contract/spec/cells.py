"""The values of the cells of the abstract state: what there is, said without tables, bits or lists.

Which cell holds which value is said in `state.py`.
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
