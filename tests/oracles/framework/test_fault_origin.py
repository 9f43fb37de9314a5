"""An exception of an oracle is an internal error, an exception of the hypervisor is a finding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.hypervisor.hypercalls import discovery
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.machine.addresses import PAGE_SHIFT
from hvfuzz.machine.physical_memory import BusError


@pytest.fixture
def host(watched: Callable[..., Any]) -> Any:
    return watched("host_memory")


@pytest.mark.parametrize("closely", [False, True])
def test_an_oracles_own_error_is_no_finding(host: Any, monkeypatch: pytest.MonkeyPatch, closely: bool) -> None:
    """Memory raises here, but on behalf of the oracle."""
    memory = host.memory
    monkeypatch.setattr(type(host.suite.oracles["host_memory"].scene), "describe", _looks_beyond(memory))

    def check(*_: Any) -> None:
        host.hv.host.read(host.in_state(FrameState.POOL) << PAGE_SHIFT, 8)

    monkeypatch.setattr(discovery.Version, "check", check)
    host.suite.watch_closely(closely)
    with pytest.raises(BusError):
        host.run("discovery.version(dom1, want=1)")
    assert host.rules == []


def _looks_beyond(memory: Any) -> Any:
    namespace: dict[str, Any] = {"__name__": "hvfuzz.oracles.fake", "memory": memory}
    exec("def describe(*_):\n    memory.read(memory.size, 8)", namespace)
    return namespace["describe"]


@pytest.mark.parametrize("closely", [False, True])
def test_what_memory_raises_for_the_host_is_the_hosts(
    host: Any, monkeypatch: pytest.MonkeyPatch, closely: bool
) -> None:
    monkeypatch.setattr(discovery.Version, "check", lambda *_: host.memory.store(host.memory.size, 4, 0))
    host.suite.watch_closely(closely)
    host.run("discovery.version(dom1, want=1)")
    assert "host_memory/exception:BusError" in host.rules
