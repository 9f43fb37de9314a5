"""What can happen in a run: a class for each kind of moment. A recording is a list of them, in order.

Addresses are bytes, frames (hfn) and pages are numbers of 4 KiB. Rights are bits: R is 1, W is 2, X is 4. A space is
what tables translate for, see `oracles/shadow/changes.py`: the number of a domain, or that of its devices.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from hvfuzz.guest.program.program import Op
from hvfuzz.guest.run.trace import Outcome
from hvfuzz.machine.mmu.ept_walk import WalkStep
from hvfuzz.oracles.framework.finding import Finding


class Who(NamedTuple):
    """A vCPU of a domain, or, with a `device`, a device, of which `domain` is the owner (-1: nobody has it)."""

    domain: int
    vcpu: int = 0
    device: str = ""


class OpBegins(NamedTuple):
    """Op number `number` is about to run."""

    number: int
    op: Op


class OpEnds(NamedTuple):
    """The op is over; `outcomes` are its own and those of ops that raced it or that it batched, with their `kinds`."""

    number: int
    outcomes: tuple[Outcome, ...]
    kinds: tuple[str, ...]


class Walk(NamedTuple):
    """Table entries that the processor read since the last moment, in order, and hits in its caches."""

    steps: tuple[WalkStep, ...]


class Access(NamedTuple):
    """A vCPU or a device accesses memory; `access` is READ, WRITE or EXEC."""

    who: Who
    hpa: int
    size: int
    access: int


class Exit(NamedTuple):
    """A VM exit; `gpa` and `qualification` are those of an EPT violation or misconfiguration, else None."""

    who: Who
    reason: str
    gpa: int | None = None
    qualification: int = 0


class Call(NamedTuple):
    """A hypercall was decoded. `values` are its fields by name; None if dispatch refuses it before."""

    who: Who
    name: str
    values: dict[str, object] | None


class Return(NamedTuple):
    """A hypercall ends with this status and result; `reason` says which check refused it, if one did."""

    name: str
    status: int
    result: int
    reason: str


class Copy(NamedTuple):
    """The hypervisor copies from guest memory, or to it; `gva` is negative if it goes by a physical address.

    `origin` is how the address came from what the guest chose, "" if it did not: see `chosen.py`.
    """

    who: Who
    gva: int
    hpa: int
    size: int
    write: bool
    origin: str = ""


class Place(NamedTuple):
    """A function of the hypervisor that was running: its module, its qualified name, and the line in it."""

    module: str
    function: str
    line: int


class Step(NamedTuple):
    """The hypervisor applies a step of a call; `name` is that of the step's class, "" if it is a planted bug's own.

    `origins` are the fields that the guest chose, or that come from what it chose: see `chosen.py`. `place` is the
    function that applies it.
    """

    name: str
    fields: dict[str, object]
    origins: dict[str, str]
    place: Place


class PreemptionPoint(NamedTuple):
    """The running call could be interrupted here."""


class FrameTaken(NamedTuple):
    """`frames` frames from `hfn` on come into use."""

    hfn: int
    frames: int
    owner: int
    state: int


class FrameFreed(NamedTuple):
    """`frames` frames from `hfn` on become free, or go back to the pool of a domain."""

    hfn: int
    frames: int


class LeafSet(NamedTuple):
    """A leaf entry is new or changed: `frames` pages from `page` on are mapped to frames from `hfn` on."""

    space: int
    page: int
    frames: int
    hfn: int
    rights: int
    foreign: bool


class LeafGone(NamedTuple):
    """A leaf entry that named frames from `hfn` on is gone, names other ones, or has lost rights."""

    space: int
    page: int
    frames: int
    hfn: int
    rights: int


class Cached(NamedTuple):
    """A translation comes into a cache: TLB, guest-physical TLB or IOTLB."""

    cache: str
    who: Who
    page: int
    hfn: int
    rights: int


class Dropped(NamedTuple):
    """That translation leaves the cache: it was invalidated, or had to make room."""

    cache: str
    who: Who
    page: int
    hfn: int
    rights: int


class DeviceRegister(NamedTuple):
    """A register of a device is read or written: by a guest, through the hypervisor, or by DMA."""

    device: str
    register: int
    size: int
    value: int
    write: bool


class TableEntry(NamedTuple):
    """The value of entry number `slot` of the table of `level` in frame `table`."""

    level: int
    table: int
    slot: int
    entry: int


class Path(NamedTuple):
    """How a page of a space is translated: the entries from the root on, and what a cache says, "" if it says nothing.

    The walk ends with the entry that maps the page, or with the one that is not present. `own`: it leads to a frame
    that belongs to the domain of the space, as the frame table says at this moment.
    """

    space: int
    page: int
    entries: tuple[TableEntry, ...]
    cached: str
    own: bool


class Found(NamedTuple):
    """An oracle reports a finding; `places` are the hypervisor's running functions, the innermost first.

    `paths` lead to the frames that the finding names, at this moment.
    """

    finding: Finding
    places: tuple[Place, ...]
    paths: tuple[Path, ...]


class Boot(NamedTuple):
    """What was there before the first op: the frame word of each frame, all leaves, and what was cached."""

    frame_words: tuple[int, ...]
    leaves: tuple[LeafSet, ...]
    cached: tuple[Cached, ...]


Moment: TypeAlias = (
    OpBegins
    | OpEnds
    | Walk
    | Access
    | Exit
    | Call
    | Return
    | Copy
    | Step
    | PreemptionPoint
    | FrameTaken
    | FrameFreed
    | LeafSet
    | LeafGone
    | Cached
    | Dropped
    | DeviceRegister
    | Found
)


class Recording(NamedTuple):
    """A whole run."""

    boot: Boot
    moments: tuple[Moment, ...]
