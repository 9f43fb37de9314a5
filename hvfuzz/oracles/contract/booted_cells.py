"""The abstract state after boot, as the world alone demands it: RAM, devices, reserved memory, pools, and nothing else.

Only which host frames the allocator has chosen is not determined; that no two pages share one is. Helper of the oracle
`specification`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from hvfuzz.machine.addresses import EXEC, PAGE_SHIFT, READ, WRITE
from hvfuzz.oracles.contract.spec import HOST_FRAME, Frame, IoPage, Page, RunState
from hvfuzz.oracles.contract.spec.cell_words import difference, shown

if TYPE_CHECKING:
    from hvfuzz.abi.boot import World
    from hvfuzz.oracles.contract.spec import Key, Value

ABSENT: Final = ("grant", "handle", "bucket", "port", "clock_window", "console")
"""Cells that a guest makes."""


def booted_cells(world: World) -> dict[Key, Value]:
    """The cells that the world determines, without those that depend on the choice of frames."""
    cells: dict[Key, Value] = {}
    for device, base, pages in world.reserved:
        cells["reserved", device] = range(base >> PAGE_SHIFT, (base >> PAGE_SHIFT) + pages)
    for number, config in enumerate(world.domains):
        cells["version", number] = config.abi_version
        cells["pool", number] = config.pool
        for index in range(config.vcpus):
            cells["vcpu", number, index] = RunState.RUNNABLE
        for device in config.devices:
            cells["device", device] = number
            for page in cells.get(("reserved", device), ()):
                cells["iova", number, page] = IoPage(page, READ | WRITE, foreign=False)
    return cells


def faults(world: World, cells: Mapping[Key, Value], frames: int) -> Iterator[tuple[str, str]]:
    """Yield (rule, message) for each cell of a booted machine of `frames` frames that is not as the world demands.

    The rule is the kind of the cell.
    """
    wanted = booted_cells(world)
    kinds = {key[0] for key in wanted} | {*ABSENT, "device", "iova"}
    for key in sorted({*wanted, *(key for key in cells if key[0] in kinds)}):
        if cells.get(key) != wanted.get(key):
            yield (
                str(key[0]),
                difference(key, cells.get(key), wanted.get(key)),
            )
    used: dict[int, tuple[int, int]] = {}
    for number, config in enumerate(world.domains):
        for gfn in range(config.ram_pages):
            page = cells.get(("page", number, gfn))
            if page is None or page != Page(page.frame, READ | WRITE | EXEC, foreign=False):
                yield "page", f"gpa {gfn << PAGE_SHIFT:#x} of dom{number} is {shown(('page',), page)}"
            elif page.frame in used:
                other, place = used[page.frame]
                yield "page", f"page {gfn:#x} of dom{number} is frame {page.frame:#x}, page {place:#x} of dom{other}"
            else:
                used[page.frame] = number, gfn
    for key in cells:
        if key[0] == "page" and not 0 <= key[2] < world.domains[key[1]].ram_pages:
            yield "page", f"dom{key[1]} has a page {key[2]:#x} beyond its memory"
    in_use = 0
    for key, value in cells.items():
        if key[0] == "frame":
            in_use += 1
            owner = used.get(key[1])
            should = HOST_FRAME if owner is None else Frame(owner[0], 1, 0, 0)
            if value != should:
                yield "frame", difference(key, value, should)
    if cells["free",] != frames - in_use:
        yield "free", f"{cells['free',]} frames are free, and {in_use} of {frames} are in use"
