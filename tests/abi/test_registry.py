"""One contract out of families: order, uniqueness, and clear words for a clash."""

from types import ModuleType

import pytest

from hvfuzz.abi.declaration import declaration_of, hypercall
from hvfuzz.abi.kinds import PortArg
from hvfuzz.abi.registry import Abi, AbiError


@hypercall(0x31, name="event.send")
class Send:
    """Send."""

    port: PortArg


@hypercall(0x30, name="event.alloc", produces="port", result="the port")
class Alloc:
    """Allocate."""


@hypercall(0x01, name="discovery.version")
class Version:
    """Negotiate."""


def test_calls_are_ordered_and_found() -> None:
    abi = Abi([Send, Version, Alloc])
    assert [call.name for call in abi.calls] == ["discovery.version", "event.alloc", "event.send"]
    assert abi.by_number[0x31] is abi.by_name["event.send"] is declaration_of(Send)
    assert [(family.name, len(family.calls)) for family in abi.families] == [("discovery", 1), ("event", 2)]
    assert abi.families[1].doc == __doc__
    assert dict(abi.producers) == {"port": (declaration_of(Alloc),)}


def test_a_module_gives_the_classes_that_it_defines(monkeypatch: pytest.MonkeyPatch) -> None:
    family = ModuleType("event")
    family.Send, family.Version, family.other = Send, Version, 5  # type: ignore[attr-defined]
    monkeypatch.setattr(Send, "__module__", "event")
    monkeypatch.setattr(Version, "__module__", "discovery")
    assert [call.name for call in Abi([family]).calls] == ["event.send"]


def test_one_number_for_two_calls() -> None:
    @hypercall(0x30, name="event.bind")
    class Bind:
        """Bind."""

    with pytest.raises(AbiError, match=r"0x30 is both event\.alloc \(.*Alloc\) and event\.bind \(.*Bind\)"):
        Abi([Alloc, Bind])


def test_one_name_for_two_calls() -> None:
    @hypercall(0x32, name="event.alloc")
    class Again:
        """Allocate."""

    with pytest.raises(AbiError, match=r"event\.alloc is both .*Alloc\) and .*Again\)"):
        Abi([Alloc, Again])


def test_what_declares_nothing() -> None:
    with pytest.raises(AbiError, match="int declares no hypercall"):
        Abi([int])
    with pytest.raises(AbiError, match="empty declares no hypercall"):
        Abi([ModuleType("empty")])
