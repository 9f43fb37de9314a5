"""Searches for secrets in what leaves a domain other than through memory: ports, strings, consoles, DMA, disks.

Helper of the oracle `secrets`. `report`(rule, message) is that of the oracle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from hvfuzz.machine.addresses import WRITE
from hvfuzz.oracles.isolation.canary_search import Canaries, owner_name
from hvfuzz.oracles.scene.scene import Scene

if TYPE_CHECKING:
    from hvfuzz.oracles.shadow.page_table_shadow import PageTableShadow

RECENT: Final = 72
"""Last bytes of a serial port that are searched: those of one exit, and what a secret needs before them."""
Transfer = tuple[Any, int, int]
"""(device, hpa, bytes) of a write by a device"""


class WaysOut:
    """The ports, consoles and devices of one system."""

    __slots__ = ("_canaries", "_domains", "_last", "_report", "_scene", "_shadow", "written")

    def __init__(
        self, scene: Scene, shadow: PageTableShadow, canaries: Canaries, report: Callable[[str, str], None]
    ) -> None:
        self._scene: Final = scene
        self._shadow: Final = shadow
        self._canaries: Final = canaries
        self._report: Final = report
        self._domains: Final = list.copy(scene.hypervisor.domains)
        self._last: dict[tuple[str, int], bytes] = {}
        """(way out, domain) -> what it held when it was searched last."""
        self.written: list[Transfer] = []
        """What devices are about to write in this op."""

    def attach(self) -> None:
        """Forget what was searched."""
        self.reset()

    def reset(self) -> None:
        """Forget what was searched, and the writes of devices."""
        self._last.clear()
        self.written.clear()

    def string_sent(self, domain: int, data: bytes) -> None:
        """Check the elements of an OUTS, one after the other."""
        self._check("sends by OUTS", domain, data)

    def port_used(self, domain: int) -> None:
        """Check the bytes that the domain's serial port sent, and those that can be read from it."""
        uart: Any = self._domains[domain].devices.by_name["uart"]
        if uart.transmitted:
            self._check_changed("sends by its serial port", domain, bytes(uart.transmitted[-RECENT:]))
        if uart.received:
            self._check_changed("can read from its serial port", domain, bytes(uart.received))

    def console_used(self, domain: int) -> None:
        """Check the text on the domain's console."""
        self._check_changed("has on its console", domain, bytes(self._domains[domain].console))

    def device_access(self, device: Any, hpa: int, size: int, access: int) -> None:
        """A device is about to access memory: check what it reads, note what it writes."""
        if hpa + size > self._scene.memory_size:
            return  # Registers, or nothing; a register is checked where a guest reads it.
        if access == WRITE:
            self.written.append((device, hpa, size))
        else:
            self._check_device("reads", device, self._scene.machine.memory.read(hpa, size))

    def check_written(self) -> None:
        """Check what devices wrote, and what those with a memory of their own keep."""
        for device, hpa, size in self.written:
            self._check_device("writes", device, self._scene.machine.memory.read(hpa, size))
        self.written.clear()

    def check_devices(self) -> None:
        """Check the memory of each device, such as its disk."""
        for device in self._scene.machine.devices:
            self._check_device("keeps", device, bytes(device.private))

    def _check_device(self, verb: str, device: Any, data: bytes) -> None:
        domain = self._shadow.device_domain(device.bdf)
        if domain < 0 or not any(data):
            return
        owner = self._canaries.in_data(data, domain)
        if owner is not None:
            whose = f"device {device.bdf:#06x} of dom{domain}"
            self._report("dma", f"{whose} {verb} a secret of {owner_name(owner)}")

    def _check_changed(self, way: str, domain: int, data: bytes) -> None:
        """Check data that was perhaps checked before."""
        if data and self._last.get((way, domain)) != data:
            self._last[way, domain] = data
            self._check(way, domain, data)

    def _check(self, way: str, domain: int, data: bytes) -> None:
        owner = self._canaries.in_data(data, domain)
        if owner is not None:
            self._report("sent", f"dom{domain} {way} a secret of {owner_name(owner)}")
