"""How much the host remembers beside its memory: the sizes of all that the hypervisor holds in lists and the like.

What stands for a table or an array of the hypervisor's has its size from boot on. Only what is named here may grow, up
to its limit: a guest that can make anything else longer, call by call, exhausts the host in the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from hvfuzz.abi.boot import DEVICES, WORLDS
from hvfuzz.abi.limits import CONSOLE, PORTS_PER_BUCKET

if TYPE_CHECKING:
    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

CONTAINERS: Final = (list, dict, set, deque, bytearray)
OURS: Final = "hvfuzz.hypervisor."
"""Package of the classes whose attributes are looked at; what else there is belongs to the machine, or to nobody."""
BACK: Final = ("machine", "memory", "observer")
"""Attributes that lead out of the hypervisor."""
UART_LIMIT: Final = 256
"""Bytes that a serial port keeps in each direction."""
GROWS: Final = MappingProxyType(
    {
        "console": CONSOLE,
        "ports": PORTS_PER_BUCKET,
        "received": UART_LIMIT,
        "transmitted": UART_LIMIT,
        # One a device, one a vCPU, and one a domain.
        "windows": DEVICES,
        "apic_timers": max(sum(domain.vcpus for domain in world.domains) for world in WORLDS),
        "timers": max(len(world.domains) for world in WORLDS),
        # One poll a vCPU, and as many pages as the rule of pools says: both are counted elsewhere.
        "polls": None,
        "pages": None,
    }
)
"""Attribute -> elements that it may have, whatever it had at boot."""


class Growth:
    """Measures the hypervisor after each op of a run that is looked at closely. A rule of the oracle `work`."""

    __snapshot_leaf__ = True
    __slots__ = ("_base", "_scene")
    oracle = "work"

    def __init__(self, scene: Scene, shadow: PageTableShadow) -> None:
        self._scene: Final = scene
        self._base: dict[str, int] = {}

    def hook(self, on: bool) -> None:
        """To be called when the machine is as it was booted."""
        if on and not self._base:
            self._base = sizes(self._scene.hypervisor)

    def reset(self) -> None:
        """There is nothing to forget: sizes at boot stay what they are."""

    def op_finished(self) -> None:
        """Something may have grown."""
        for text in grown(self._base, sizes(self._scene.hypervisor)):
            self._scene.report(self.oracle, "growth", text)


def sizes(hypervisor: Any) -> dict[str, int]:
    """Path of each container that the hypervisor holds -> its elements."""
    return {path: len(container) for path, container in _containers(hypervisor)}


def grown(before: dict[str, int], after: dict[str, int]) -> Iterator[str]:
    """What is longer than it was and may not be, a text each."""
    for path, size in after.items():
        attribute = path.rpartition(".")[2].partition("[")[0]
        limit = GROWS.get(attribute, before.get(path, 0))
        if limit is not None and size > limit:
            yield f"hypervisor{path} has {size} elements, limit {limit}"


def _containers(hypervisor: Any) -> Iterator[tuple[str, Any]]:
    seen: set[int] = set()
    pending: list[tuple[str, Any]] = [("", hypervisor)]
    while pending:
        path, item = pending.pop()
        if id(item) in seen or isinstance(item, type):
            continue
        seen.add(id(item))
        if isinstance(item, CONTAINERS):
            yield path, item
        pending += ((path + step, child) for step, child in _children(item))


def _children(item: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(item, dict):
        yield from ((f"[{key!r}]", value) for key, value in item.items())
    elif isinstance(item, (list, tuple, deque)):
        yield from ((f"[{number}]", list_item) for number, list_item in enumerate(item))
    cls = type(item)
    if cls.__module__.startswith(OURS):
        for base in cls.__mro__:
            slots = base.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if name not in BACK and hasattr(item, name):
                    yield f".{name}", getattr(item, name)
