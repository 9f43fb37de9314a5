"""What two runs leave, in facts that can be compared: the specification's cells, and what the cells leave out.

In a run in which domains have other numbers, and so other frames, a frame is called by the pages that it is, and each
fact by the domain's number in the other run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from hvfuzz.hypervisor.core.hypervisor import MODELS, Hypervisor
from hvfuzz.hypervisor.devices.device_model import AREA
from hvfuzz.machine.addresses import PAGE_SHIFT, PAGE_SIZE, WORD
from hvfuzz.machine.machine import Machine
from hvfuzz.oracles.contract.abstraction import Abstraction
from hvfuzz.oracles.contract.spec import HOST_FRAME, Key, Value
from hvfuzz.oracles.noninterference.observation import state_of
from hvfuzz.oracles.scene.call_stack import CallStack
from hvfuzz.oracles.scene.scene import Scene
from hvfuzz.oracles.shadow.changes import DMA_LEVELS
from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

Facts = dict[Key, object]
RIGHTS: Final = 7
ENTRY_ADDRESS: Final = 0x000F_FFFF_FFFF_F000
"""The address in an entry of a device table (VT-d spec 9.8)."""
UNMAPPED: Final = ("unmapped",)
PER_DOMAIN: Final = frozenset(
    ("version", "vcpu", "page", "iova", "pool", "grant", "handle", "bucket", "port", "clock_window", "console")
)
"""Cells whose key has a domain's number first."""


class State(NamedTuple):
    """The facts about one system, and where its memory is."""

    facts: Facts
    frames: Mapping[Key, int]
    """Host frame of each page of memory, and of each reserved page, by its name."""


def is_mapped(machine: Machine, root: int, page: int) -> bool:
    """Whether the device table at `root` maps device page number `page`; read from its bytes."""
    table = root
    for level in range(DMA_LEVELS, 0, -1):
        entry = machine.memory.load64(table + WORD * (page >> 9 * (level - 1) & 511))
        if not entry & RIGHTS:
            return False
        table = entry & ENTRY_ADDRESS
    return True


def scene_of(hv: Hypervisor) -> Scene:
    """A scene in which nobody reports."""
    return Scene(hv.machine, hv, hv.world, CallStack(hv.machine, hv), _nobody, _nobody, {})


def _nobody(*_: object) -> None:
    pass


def state_of_system(hv: Hypervisor, names: Mapping[int, int], *, named: bool) -> State:
    """All facts about the system, each domain called by `names`, if it is there. With `named`, so are frames."""
    scene = scene_of(hv)
    shadow = PageTableShadow(scene)
    shadow.attach()
    cells = Abstraction(scene, shadow).cells()
    places: dict[Key, int] = {}
    for key, value in cells.items():
        if key[0] == "page":
            places["page", names.get(key[1], key[1]), key[2]] = value.frame
        elif key[0] == "reserved" and value is not None:
            places.update({("reserved page", page): page for page in value})
    facts = _renamed(cells, places, names) if named else dict(cells)
    facts.update(_others(hv, names))
    return State(facts, places)


def _renamed(cells: Mapping[Key, Value], places: Mapping[Key, int], names: Mapping[int, int]) -> Facts:
    called: dict[int, Key] = {}
    for key, hfn in sorted(places.items()):
        called.setdefault(hfn, key)
    facts: Facts = {}
    unmapped: Counter[object] = Counter()

    def name(number: int) -> int:
        return names.get(number, number)

    for key, cell in cells.items():
        value: Any = cell
        kind = key[0]
        if kind == "frame":
            value = HOST_FRAME if value == HOST_FRAME else value._replace(owner=name(value.owner))
            if key[1] not in called:
                unmapped[value] += 1
                continue
            key = "frame", called[key[1]]
        elif kind in ("page", "iova"):
            value = (called.get(value.frame, value.frame), value.rights, value.foreign)
        elif kind == "grant":
            value = value._replace(to=name(value.to), frame=called.get(value.frame, UNMAPPED))
        elif kind == "handle":
            value = value._replace(granter=name(value.granter), frame=called.get(value.frame, UNMAPPED))
        elif kind == "port":
            value = value._replace(remote=name(value.remote))
        elif kind == "bucket":
            value = True
        elif kind == "device":
            value = name(value)
        if kind in PER_DOMAIN:
            key = kind, name(key[1]), *key[2:]
        facts[key] = value
    facts[("frames that nobody maps",)] = tuple(sorted(unmapped.items(), key=repr))
    return facts


def _others(hv: Hypervisor, names: Mapping[int, int]) -> Iterator[tuple[Key, object]]:
    """What the cells leave out: processors, deadlines, windows, device models, interrupt controllers, devices."""
    machine, memory = hv.machine, hv.machine.memory
    called = {vcpu.id: (names.get(vcpu.domain, vcpu.domain), vcpu.index) for vcpu in machine.vcpus}
    for vcpu in machine.vcpus:
        yield ("processor", *called[vcpu.id]), (state_of(vcpu), tuple(sorted(vcpu.msrs.items())))
        apic = list.__getitem__(hv.apics, vcpu.id)
        yield ("local APIC", *called[vcpu.id]), memory.read(apic, PAGE_SIZE - (apic & PAGE_SIZE - 1))
        poll = hv.scheduler.polls.get(vcpu.id)
        yield ("poll", *called[vcpu.id]), poll and tuple(poll)
        yield ("APIC timer", *called[vcpu.id]), hv.apic_timers.get(vcpu.id)
    for domain in range(len(hv.world.domains)):
        name = names.get(domain, domain)
        base = hv.bounce + MODELS + domain * AREA
        yield ("device models", name), memory.read(base, AREA)
        yield ("timer armed", name), domain in hv.timers
        for (owner, page), number in hv.windows.items():
            if owner == domain:
                yield ("window", name, page), number
    for number, device in enumerate(machine.devices):
        yield ("registers", number), (tuple(device.registers), bytes(device.private), device.busy)


def contents(hv: Hypervisor, hfn: int) -> bytes:
    """The bytes of a frame; none if a broken table names one that does not exist."""
    memory = hv.machine.memory
    return memory.read(hfn << PAGE_SHIFT, PAGE_SIZE) if 0 <= hfn < memory.frames else b""
