"""Cells, their values and the arguments of calls in words, for messages: numbers in hexadecimal, rights as letters."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from types import MappingProxyType
from typing import Any, Final

from hvfuzz.machine.addresses import PAGE_SHIFT, rights_text
from hvfuzz.oracles.contract.spec.cells import (
    HYPERVISOR,
    NOBODY,
    ClockWindow,
    Frame,
    Grant,
    Handle,
    IoPage,
    Page,
    Poll,
    Port,
    RunState,
)

PORTS_PER_BUCKET: Final = 32
TUPLES: Final[Mapping[str, Any]] = MappingProxyType(
    {"page": Page, "iova": IoPage, "frame": Frame, "grant": Grant, "handle": Handle, "port": Port, "poll": Poll}
)
"""Kind of cell -> the class of its values."""
ONE_DIGIT: Final = 10
"""Smaller numbers are the same in hexadecimal."""


def cell_name(key: tuple[Hashable, ...]) -> str:
    """What a cell holds, such as "gpa 0x1000 of dom1"; see the table in `cells.py`."""
    place: Any = key[1:]
    match key[0]:
        case "page":
            return f"gpa {place[1] << PAGE_SHIFT:#x} of dom{place[0]}"
        case "iova":
            return f"iova {place[1] << PAGE_SHIFT:#x} of the devices of dom{place[0]}"
        case "frame":
            return f"frame {place[0]:#x}"
        case "free":
            return "the number of free frames"
        case "pool":
            return f"the number of spare table pages of dom{place[0]}"
        case "version":
            return f"the ABI version of dom{place[0]}"
        case "vcpu" | "poll":
            return f"the run state of vCPU {place[1]} of dom{place[0]}"
        case "bucket":
            first = PORTS_PER_BUCKET * place[1]
            return f"the page with ports {first:#x} to {first + PORTS_PER_BUCKET - 1:#x} of dom{place[0]}"
        case "device":
            return f"the owner of device {number(place[0])}"
        case "clock_window":
            return f"the clock reads of dom{place[0]}"
        case "console":
            return f"the console of dom{place[0]}"
        case "handle":
            return f"grant mapping {number(place[1])} of dom{place[0]}"
        case "grant" | "port":
            return f"{key[0]} {number(place[1])} of dom{place[0]}"
    return f"{key[0]} {', '.join(number(each) for each in place)}"


def difference(key: tuple[Hashable, ...], value: object, expected: object) -> str:
    """What a cell is, and what the contract says."""
    return f"{cell_name(key)} is {shown(key, value)} where the contract says {shown(key, expected)}"


def shown(key: tuple[Hashable, ...], value: object) -> str:
    """The value of a cell; "absent" if the cell does not exist. Equal tuples of the machine's count as these."""
    kind = TUPLES.get(str(key[0]))
    if kind is not None and isinstance(value, tuple):
        value = kind(*value)
    match value:
        case None:
            return "absent"
        case Page(frame, rights, foreign) | IoPage(frame, rights, foreign):
            return f"frame {frame:#x}, rights {rights_text(rights)}{', by a grant' if foreign else ''}"
        case Frame(owner, maps, pins, grants):
            return f"owned by {_owner(owner)}, maps {maps}, pins {pins}, grants {grants}"
        case Grant(gfn, frame, to, rights, host_pins, device_pins):
            sides = f"{host_pins} host and {device_pins} device mappings"
            return f"gfn {gfn:#x} (frame {frame:#x}) for dom{to}, rights {rights_text(rights)}, {sides}"
        case Handle(granter, ref, host, device, gfn, iova, frame, rights):
            places = [f"gfn {gfn:#x}"] * host + [f"iova {iova:#x}"] * device
            where = " and ".join(places) or "nowhere"
            return f"grant {ref} of dom{granter} at {where}, frame {frame:#x}, rights {rights_text(rights)}"
        case Port(state, remote, remote_port, pending):
            far = f"port {number(remote_port)} of dom{remote}"
            return f"{state.name}, {far}{', pending' if pending else ''}"
        case ClockWindow(window, reads):
            return f"{reads} reads in window {number(window)}"
        case Poll(ports, deadline, latest):
            waits = ", ".join(map(number, ports)) or "no port"
            return f"polls {waits} until {number(deadline)} to {number(latest)}"
        case RunState():
            return value.name
        case bytes():
            return f"{len(value)} bytes, {value[-16:].hex()} last" if value else "empty"
        case int() if key[0] == "device":
            return f"dom{value}"
        case int():
            return number(value)
    return str(value)


def arguments(args: Any) -> str:
    """The arguments of a call: "gfn=0x400, to=2"."""
    return ", ".join(f"{name}={number(value)}" for name, value in args._asdict().items())


def number(value: object) -> str:
    """A number, in hexadecimal unless it has a single digit."""
    return hex(value) if isinstance(value, int) and not 0 <= value < ONE_DIGIT else str(value)


def _owner(owner: int) -> str:
    return {HYPERVISOR: "the hypervisor", NOBODY: "nobody"}.get(owner, f"dom{owner}")
