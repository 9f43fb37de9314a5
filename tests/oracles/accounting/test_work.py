"""The oracle `work`: the longest legal calls stay within the bounds, and longer ones are reported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.hypervisor.core import dispatch
from hvfuzz.hypervisor.hypercalls import console
from hvfuzz.oracles.accounting.work import LONG_BOUND, OWN_BOUNDS, SHORT_BOUND

GRANT = "r0 = grant.create(dom1, gfn=0x30, to=2, rights=R|W)"
MAPS = [
    f"r{at + 1} = grant.map(dom2, granter=1, ref=r0, gfn={0x100 + at}, iova={at << 12}, flags=HOST|DEVICE)"
    for at in range(64)
]


@pytest.fixture
def work(watched: Callable[..., Any]) -> Any:
    return watched("work")


def test_the_longest_calls(work: Any) -> None:
    lines = [
        "memory.populate(dom1, first=0x200, count=2, order=9)",
        "memory.decrease(dom1, first=0x200, count=1)",
        "memory.decrease(dom1, first=0x201, count=512)",
        "memory.protect(dom1, first=0x402, count=510, rights=R)",
        "device.dma_map(dom1, iova=0x1ff000, gfn=0x30, count=64, rights=R|W)",
        "device.dma_map(dom1, iova=0x1ff000, gfn=0x70, count=64, rights=R|W)",
        "device.dma_unmap(dom1, iova=0x1ff000, count=64)",
    ]
    trace = work.run(*lines)
    lines = [f"store(dom2, gva={0xFFFF_8800_0004_0000 + 8 * at}, size=8, value={0x80 + at})" for at in range(64)]
    lines += ["memory.exchange(dom2, gfns=0xffff880000040000, out=0xffff880000041000, count=64)"]
    trace = work.run(*lines)
    assert trace.outcomes[-1].status == 0
    trace = work.run(GRANT, *MAPS, "grant.unmap(dom2, handle=0, count=64, flags=HOST|DEVICE)")
    assert trace.outcomes[-1].result == 128
    work.run("multicall(dom2, count=16)", *["discovery.limits(dom2, what=1)"] * 16)
    assert work.rules == []


def test_release_without_a_preemption_point(work: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain half of XSA-380."""
    monkeypatch.setattr(dispatch, "commit_long", dispatch.commit)
    work.run(GRANT, *MAPS, "grant.unmap(dom2, handle=0, count=64, flags=HOST|DEVICE)")
    assert [finding.identity for finding in work.suite.findings] == ["work/preemption/grant.unmap"]


@pytest.mark.parametrize(
    ("line", "bound"),
    [
        ("discovery.limits(dom1, what=1)", SHORT_BOUND),
        ("memory.decrease(dom1, first=0x40, count=1)", LONG_BOUND),
        ("grant.unmap(dom1, handle=0, count=1, flags=HOST)", OWN_BOUNDS["grant.unmap"]),
    ],
)
@pytest.mark.parametrize("beyond", [False, True])
def test_bounds(work: Any, monkeypatch: pytest.MonkeyPatch, line: str, bound: int, beyond: bool) -> None:
    fetch_arguments = dispatch.fetch_arguments

    def busy(hv: Any, *rest: Any) -> Any:
        hv.host.work.units += bound + 1 if beyond else bound - 100
        return fetch_arguments(hv, *rest)

    monkeypatch.setattr(dispatch, "fetch_arguments", busy)
    work.run(line)
    assert work.rules == (["work/preemption"] if beyond else [])


def test_heap_pages(work: Any) -> None:
    lines = [f"event.alloc(dom{domain}, remote=0)" for domain in (0, 1, 2) for _ in range(128)]
    for start in range(0, len(lines), 200):
        work.run(*lines[start : start + 200])
    assert work.rules == []
    assert work.during(work.hv.allocator.alloc_heap_page) == ["work/heap"]


def test_console_that_grows(work: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["console.write(dom1, text=0xffff880000040000, length=200)"] * 3
    work.run(*lines)
    assert work.rules == []

    def keep(self: Any, hv: Any) -> None:
        hv.domains[self.domain].console += self.text

    monkeypatch.setattr(console.WriteConsole, "apply", keep)
    work.run(*lines)
    assert work.rules == ["work/growth"]


def test_work_is_that_of_one_exit(work: Any) -> None:
    work.run(*["discovery.limits(dom1, what=1)"] * 250)
    assert work.hv.host.work.units > SHORT_BOUND
    assert work.rules == []
