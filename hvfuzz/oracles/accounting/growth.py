"""Measures the Python containers of the hypervisor, which stand for memory of the host. Helper of the oracle `work`.

Containers that stand for a table or an array have a fixed size from boot on. Only those named here may grow, up to a
limit: a guest that can make any other one longer, call by call, exhausts the host in the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from hvfuzz.abi.boot import DEVICES, WORLDS
from hvfuzz.abi.limits import CONSOLE, PORTS_PER_BUCKET

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

CONTAINERS: Final = (list, dict, set, deque, bytearray)
SEQUENCES: Final = (list, tuple, deque)
"""What is followed by place: a tuple has a fixed length, but may lead to containers."""
WAYS_ON: Final = (*CONTAINERS, *SEQUENCES)
PLAIN: Final = frozenset((int, bool, str, bytes, type(None)))
"""Classes that lead nowhere. Others that lead nowhere are found one by one."""
OURS: Final = "hvfuzz.hypervisor."
"""Package of the classes whose attributes are followed; other objects belong to the machine, or hold no state."""
BACK: Final = ("machine", "memory", "observer")
"""Attributes that lead out of the hypervisor, and are not followed."""
UART_LIMIT: Final = 256
"""Bytes that a serial port keeps in each direction."""
GROWS: Final = MappingProxyType(
    {
        "console": CONSOLE,
        "ports": PORTS_PER_BUCKET,
        "received": UART_LIMIT,
        "transmitted": UART_LIMIT,
        # One per device, per vCPU, and per domain.
        "windows": DEVICES,
        "apic_timers": max(sum(domain.vcpus for domain in world.domains) for world in WORLDS),
        "timers": max(len(world.domains) for world in WORLDS),
        # One poll per vCPU, and the pages of a pool: both are checked elsewhere.
        "polls": None,
        "pages": None,
    }
)
"""Attribute -> maximum number of elements; None for no limit here."""


class Growth:
    """Measures the hypervisor after each op of an audited run, and reports the rule `growth` of the oracle."""

    __snapshot_leaf__ = True
    __slots__ = ("_base", "_exited", "_scene")
    oracle = "work"

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        self._scene: Final = scene
        self._base: dict[str, int] = {}
        self._exited = False
        """Whether the hypervisor has handled an exit in this op."""

    def hook(self, on: bool) -> None:
        """Measure the booted system once. Must be called while the machine is in its booted state."""
        if on and not self._base:
            self._base = sizes(self._scene.hypervisor)

    def host_exception(self, fault: BaseException) -> None:
        """The host is dead: nothing waits to be reported."""

    def reset(self) -> None:
        """Forget the op; the sizes at boot do not change."""
        self._exited = False

    def exit_started(self, vcpu: VCpu) -> None:
        """The hypervisor may store something."""
        self._exited = True

    def op_finished(self) -> None:
        """Report each container that grew beyond its limit."""
        if not self._exited:
            return
        self._exited = False
        for text in grown(self._base, sizes(self._scene.hypervisor)):
            self._scene.report(self.oracle, "growth", text)


def sizes(hypervisor: Any) -> dict[str, int]:
    """Path of each container of the hypervisor -> number of its elements."""
    return {path: len(container) for path, container in _containers(hypervisor)}


def grown(before: dict[str, int], after: dict[str, int]) -> Iterator[str]:
    """A message for each container that is longer than it may be."""
    for path, size in after.items():
        attribute = path.rpartition(".")[2].partition("[")[0]
        limit = GROWS.get(attribute, before.get(path, 0))
        if limit is not None and size > limit:
            yield f"hypervisor{path} has {size} elements, limit {limit}"


def _containers(hypervisor: Any) -> Iterator[tuple[str, Any]]:
    """Path and container, for each that can be reached. The walk runs after each op, so it makes no path in vain."""
    seen: set[int] = set()
    pending: list[tuple[str, Any]] = [("", hypervisor)]
    while pending:
        path, item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        cls = item.__class__
        if issubclass(cls, CONTAINERS):
            yield path, item
        if issubclass(cls, dict):
            if not _ends(item.values()):
                pending += [(f"{path}[{key!r}]", value) for key, value in item.items() if _leads_on(value.__class__)]
        elif issubclass(cls, SEQUENCES):
            if not _ends(item):
                pending += [(f"{path}[{place}]", each) for place, each in enumerate(item) if _leads_on(each.__class__)]
        elif cls.__module__.startswith(OURS):
            for name in _attributes(cls):
                value: Any = getattr(item, name, None)
                if _leads_on(value.__class__):
                    pending.append((f"{path}.{name}", value))


def _ends(items: Iterable[Any]) -> bool:
    """Whether no item leads on, as in the long lists of numbers: their types are compared without a turn for each."""
    return PLAIN.issuperset(map(type, items))


def _leads_on(cls: Any) -> bool:
    """Whether an object of this class is a container, or may lead to one."""
    return issubclass(cls, WAYS_ON) or (cls.__module__.startswith(OURS) and bool(_attributes(cls)))


@cache
def _attributes(cls: Any) -> tuple[str, ...]:
    """The attributes of a class of the hypervisor that are followed.

    A class that hooks a machine must not come here: the cache would keep it, and with it the machine, for ever.
    """
    slots = [base.__dict__.get("__slots__", ()) for base in cls.__mro__]
    names = [name for each in slots for name in ((each,) if isinstance(each, str) else each)]
    return tuple(name for name in names if name not in BACK)
