"""Headers of heap pages and the control area: every change of them is reported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.hypervisor.memory.allocator import Allocator
from hvfuzz.machine.addresses import PAGE_SHIFT


@pytest.fixture
def host(watched: Callable[..., Any]) -> Any:
    return watched("host_memory")


@pytest.mark.parametrize(("offset", "rules"), [(0, ["host_memory/header"]), (8, ["host_memory/header"]), (16, [])])
def test_header_of_a_heap_page_in_use(host: Any, offset: int, rules: list[str]) -> None:
    """Pages that were there at boot, and one that came since; and once the page is given back, it has no header."""
    at_boot = host.hv.bounce >> PAGE_SHIFT
    host.run("event.alloc(dom1, remote=dom2)")
    bucket = host.hv.domains[1].buckets[0].page
    for hfn in (at_boot, bucket):
        hpa = (hfn << PAGE_SHIFT) + offset
        assert host.during(lambda: host.hv.host.read64(hpa)) == []  # noqa: B023
        assert host.during(lambda: host.hv.host.write64(hpa, 1)) == rules  # noqa: B023
        host.suite.log.clear()
    host.restore()
    host.run("r0 = event.alloc(dom1, remote=dom2)", "event.close(dom1, port=r0)")
    assert host.rules == []


def test_a_longer_write_reaches_the_header_of_the_next_page(host: Any) -> None:
    hpa = host.hv.bounce & ~0xFFF
    assert host.during(lambda: host.hv.host.write(hpa + 0xFF0, bytes(16))) == []
    assert host.during(lambda: host.hv.host.write(hpa - 8, bytes(16))) == ["host_memory/header"]


def test_the_control_area_is_never_written(host: Any) -> None:
    assert host.during(lambda: host.hv.host.write64(0x800, 1)) == ["host_memory/header"]


def test_the_audit_sees_what_went_past_the_accessor(rig: Any) -> None:
    rig.poke(rig.hv.bounce & ~0xFFF, 1)
    assert rig.rules == []
    rig.suite.audit()
    assert rig.rules == ["audit/host_memory.header"]


@pytest.mark.parametrize("secret", [True, False])
def test_heap_page_without_a_secret(host: Any, monkeypatch: pytest.MonkeyPatch, secret: bool) -> None:
    if not secret:
        monkeypatch.setattr(Allocator, "heap_canary", lambda *_: 0)
    host.run("event.alloc(dom1, remote=dom2)")
    assert host.rules == ([] if secret else ["host_memory/header"])
