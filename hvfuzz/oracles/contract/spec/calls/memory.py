"""The rules of family `memory`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import repeat
from typing import Any, Final

from hvfuzz.abi import limits
from hvfuzz.abi.status import Status
from hvfuzz.machine.addresses import EXEC, LARGE_FRAMES, READ, WRITE, Hfn
from hvfuzz.oracles.contract.spec.blocks import frame_block, frame_keys, page_block, page_keys
from hvfuzz.oracles.contract.spec.cells import FREE_FRAME, Frame, Page
from hvfuzz.oracles.contract.spec.evidence import Evidence, Rule
from hvfuzz.oracles.contract.spec.ranges import pages_in
from hvfuzz.oracles.contract.spec.state import FREE, State
from hvfuzz.oracles.contract.spec.undo_log import Key
from hvfuzz.oracles.contract.spec.verdict import Accept, Call, Expected, Tables

TOP_DOWN: Final = 1
RWX: Final = READ | WRITE | EXEC
PROTECTIONS: Final = frozenset({READ, READ | WRITE, READ | EXEC, RWX})
MOST: Final = {0: limits.POPULATE, limits.LARGE_ORDER: limits.POPULATE_LARGE}
"""Order -> most elements of one `memory.populate`."""
_page = partial(tuple.__new__, Page)  # Half the time of the constructor, for up to 512 pages.


def populate(state: State, call: Call, evidence: Evidence) -> Expected:
    """Map fresh frames in a range without pages."""
    args, caller = call.args, call.caller
    first, order = args.first, args.order
    most = MOST.get(order)
    if most is None or args.flags & ~TOP_DOWN or not 0 < args.count <= most:
        return Status.INVALID
    frames = args.count << order
    if first % (1 << order) or first + frames > limits.MAX_GFN:
        return Status.INVALID
    pages: list[Sequence[Key]]
    if order:
        pages = [page_keys(caller, gfn) for gfn in range(first, first + frames, LARGE_FRAMES)]
    else:
        pages = [[("page", caller, gfn) for gfn in range(first, first + frames)]]
    for keys in pages:
        if not state.cells.keys().isdisjoint(keys):
            return Status.EXISTS
    if not enough_frames(state, args.count, order) or evidence.denies(args.count):
        return Status.NO_MEMORY

    def effect(fresh: tuple[Hfn, ...]) -> None:
        use = Frame(caller, maps=1, pins=0, grants=0)
        if order:
            for gfn, frame in zip(range(first, first + frames, LARGE_FRAMES), fresh[::LARGE_FRAMES], strict=True):
                state.create_block(page_block(caller, gfn, frame, RWX, False))
                state.create_block(frame_block(frame, use))
            state[FREE] = state.free() - frames
        else:
            state.create(pages[0], map(_page, zip(fresh, repeat(RWX), repeat(False))))
            state.allot(use, fresh)

    return Accept(args.count, effect, fresh=frames, order=order, tables=Tables.NEEDED)


def enough_frames(state: State, count: int, order: int) -> bool:
    """Whether `count` frames (order 0), or aligned blocks of 2 MiB, are free."""
    if state.free() < count << order:
        return False
    if order == 0:
        return True
    blocks = 0
    for first in range(0, state.frames - LARGE_FRAMES + 1, LARGE_FRAMES):
        blocks += state.cells.keys().isdisjoint(frame_keys(first))
        if blocks == count:
            return True
    return False


def owned(state: State, domain: int, gfn: int) -> Page | Status:
    """The page at `gfn` whose frame belongs to the domain, or the refusal."""
    page: Page | None = state.get(("page", domain, gfn))
    if page is None:
        return Status.NOT_PRESENT
    frame: Frame = state.get(("frame", page.frame)) or FREE_FRAME
    return page if frame.owner == domain else Status.NOT_OWNER


def releasable(state: State, domain: int, gfn: int) -> Page | Status:
    """The page at `gfn` whose frame belongs to the domain and has no other use, or the refusal."""
    page: Page | None = state.get(("page", domain, gfn))
    if page is None:
        return Status.NOT_PRESENT
    frame: Frame = state.get(("frame", page.frame)) or FREE_FRAME
    owner, maps, pins, grants = frame
    if owner != domain:
        return Status.NOT_OWNER
    # The owner's stage 2 maps a frame once, and grant mappings are pins, so any other mapping is one for DMA.
    return Status.BUSY if pins or grants or maps > 1 else page


def decrease(state: State, call: Call, _evidence: Evidence) -> Expected:
    """Remove a range of pages and free their frames."""
    args, caller = call.args, call.caller
    if not pages_in(args.first, args.count, limits.MAX_GFN, limits.RANGE):
        return Status.INVALID
    gfns = range(args.first, args.first + args.count)
    gone = []
    for gfn in gfns:
        page = releasable(state, caller, gfn)
        if not isinstance(page, Page):
            return page
        gone.append(page.frame)

    def effect(_fresh: tuple[Hfn, ...]) -> None:
        state.erase([("page", caller, gfn) for gfn in gfns])
        state.release(gone)

    return Accept(args.count, effect, tables=Tables.NEEDED)


def protect(state: State, call: Call, _evidence: Evidence) -> Expected:
    """Set the rights of a range of pages."""
    args, caller = call.args, call.caller
    if not pages_in(args.first, args.count, limits.MAX_GFN, limits.RANGE) or args.rights not in PROTECTIONS:
        return Status.INVALID
    gfns = range(args.first, args.first + args.count)
    frames = []
    for gfn in gfns:
        page = owned(state, caller, gfn)
        if not isinstance(page, Page):
            return page
        frames.append(page.frame)

    def effect(_fresh: tuple[Hfn, ...]) -> None:
        leaves = map(_page, zip(frames, repeat(args.rights), repeat(False)))
        state.update([("page", caller, gfn) for gfn in gfns], leaves)

    return Accept(args.count, effect, tables=Tables.NEEDED)


def exchange(state: State, call: Call, evidence: Evidence) -> Expected:
    """Replace the frame of each listed page by a fresh one, and write the list to `out`."""
    args, caller = call.args, call.caller
    count = args.count
    if not 0 < count <= limits.EXCHANGE:
        return Status.INVALID
    skipped = 8 * args.start
    gfns = evidence.words(args.gfns + skipped, count)
    if gfns is None or not evidence.writable(*exchange_target(args)):
        return Status.FAULT
    old = exchangeable(state, caller, gfns)
    if isinstance(old, Status):
        return old
    if state.free() < count or evidence.denies(count):
        return Status.NO_MEMORY

    def effect(fresh: tuple[Hfn, ...]) -> None:
        for gfn, page, frame in zip(gfns, old, fresh, strict=True):
            state[("page", caller, gfn)] = Page(frame, page.rights, page.foreign)
        state.allot(Frame(caller, maps=1, pins=0, grants=0), fresh)
        state.release([page.frame for page in old])

    out = (args.out + skipped, b"".join(gfn.to_bytes(8, "little") for gfn in gfns))
    return Accept(count, effect, fresh=count, tables=Tables.NEEDED, written=out, losable=True)


def exchange_target(args: Any) -> tuple[int, int]:
    """The range (gva, size) in which an exchange writes the list; empty if the count is invalid."""
    return (args.out + 8 * args.start, 8 * args.count) if 0 < args.count <= limits.EXCHANGE else (0, 0)


def exchangeable(state: State, domain: int, gfns: Iterable[int]) -> list[Page] | Status:
    """The pages at `gfns`, if each is listed once and its frame has no other use; or the refusal."""
    pages = []
    seen: set[int] = set()
    for gfn in gfns:
        if gfn >= limits.MAX_GFN or gfn in seen:
            return Status.INVALID
        seen.add(gfn)
        page = releasable(state, domain, gfn)
        if not isinstance(page, Page):
            return page
        pages.append(page)
    return pages


RULES: Final[Mapping[str, Rule]] = {
    "populate": populate,
    "decrease": decrease,
    "protect": protect,
    "exchange": exchange,
}
