"""Each request for memory of each call that makes one is denied: the call is refused, and nothing else changes.

The oracles watch: a refused call that leaves a frame, a table page, a link or a count behind is a finding. A second
attempt succeeds as if there had been no first one.
"""

from collections.abc import Iterator

import pytest

from hvfuzz.abi.status import Status
from hvfuzz.guest.format.text import parse
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

NO_MEMORY, NO_POOL = Status.NO_MEMORY, Status.NO_POOL
LARGE = "memory.populate(dom1, first=0x400, count=1, order=9)\n"
CASES = {
    "populate": ("", "memory.populate(dom1, first=0x200, count=3, order=0)", [NO_MEMORY] * 3 + [NO_POOL]),
    "populate-tables": ("", "memory.populate(dom1, first=0x3ff, count=2, order=0)", [NO_MEMORY] * 2 + [NO_POOL] * 2),
    "populate-top": ("", "memory.populate(dom1, first=0x200, count=1, order=0, flags=TOP_DOWN)", [NO_MEMORY, NO_POOL]),
    "populate-blocks": ("", "memory.populate(dom1, first=0x400, count=2, order=9)", [NO_MEMORY] * 2),
    "exchange": ("", "memory.exchange(dom1, gfns=[0x50, 0x51], out=[0, 0], count=2, start=0)", [NO_MEMORY] * 2),
    "exchange-split": (
        LARGE,
        "memory.exchange(dom1, gfns=[0x401, 0x50], out=[0, 0], count=2, start=0)",
        [NO_MEMORY, NO_MEMORY, NO_POOL],
    ),
    "protect": (LARGE, "memory.protect(dom1, first=0x401, count=2, rights=R)", [NO_POOL]),
    "protect-two": (
        LARGE + "memory.populate(dom1, first=0x600, count=1, order=9)\n",
        "memory.protect(dom1, first=0x5ff, count=2, rights=R)",
        [NO_POOL] * 2,
    ),
    "decrease": (LARGE, "memory.decrease(dom1, first=0x401, count=2)", [NO_POOL]),
    "alloc": ("", "event.alloc(dom1, remote=dom2)", [NO_MEMORY]),
    "bind": ("event.alloc(dom2, remote=dom1)\n", "event.bind(dom1, remote=dom2, port=0)", [NO_MEMORY]),
    "map": (
        "grant.create(dom2, gfn=0x50, to=dom1, rights=R|W)\n",
        "grant.map(dom1, granter=dom2, ref=0, gfn=0x200, iova=0x40000000, flags=HOST|DEVICE)",
        [NO_POOL] * 3,
    ),
    "dma_map": ("", "device.dma_map(dom1, iova=0x401ff000, gfn=0x50, count=2, rights=R|W)", [NO_POOL] * 3),
}
"""Ops before, the call, and how it is refused if its request number 0, 1, ... fails."""


@pytest.fixture(scope="module")
def target() -> Iterator[EmulatedTarget]:
    """The hypervisor without a bug, all oracles on."""
    with EmulatedTarget() as emulated:
        yield emulated


def outcomes(target: EmulatedTarget, text: str, world: str = "pair") -> list[tuple[int, int]]:
    """(status, result) of each op of a program without findings."""
    run = target.run(parse(f"# hvp 1\nworld {world}\n{text}\n", target.catalogue))
    assert run.findings == ()
    return [(outcome.status, outcome.result) for outcome in run.trace.outcomes]


@pytest.mark.parametrize("name", CASES)
def test_each_request_can_fail_and_leaves_nothing(target: EmulatedTarget, name: str) -> None:
    before, call, refusals = CASES[name]
    undisturbed = outcomes(target, f"{before}{call}")
    assert {status for status, _ in undisturbed} == {0}
    for request, refusal in enumerate(refusals):
        *first, denied, refused, again = outcomes(target, f"{before}deny(dom1, request={request})\n{call}\n{call}")
        assert [*first, again] == undisturbed
        assert (denied, refused) == ((0, 0), (refusal, 0))
    # There is no further request.
    assert outcomes(target, f"{before}deny(dom1, request={len(refusals)})\n{call}")[-1] == undisturbed[-1]


def test_the_domain_that_gets_a_device_pays(target: EmulatedTarget) -> None:
    free, assign = "device.deassign(dom0, device=1)\n", "device.assign(dom0, device=1, to=dom2)\n"
    for request, refusal in enumerate((NO_POOL, NO_POOL, Status.OK)):
        text = f"{free}deny(dom0, request={request})\n{assign}"
        assert outcomes(target, text, "reserved")[-1] == (refusal, 0)
    # Without reserved memory it needs no table.
    free, assign = free.replace("device=1", "device=0"), assign.replace("device=1", "device=0")
    assert outcomes(target, f"{free}deny(dom0, request=0)\n{assign}")[-1] == (0, 0)


def test_every_call_that_may_find_no_memory_is_tried() -> None:
    asking = {call.name for call in ABI.calls if {NO_MEMORY, NO_POOL} & set(call.errors)}
    tried = {call.partition("(")[0] for _, call, _ in CASES.values()}
    assert tried | {"device.assign"} == asking
