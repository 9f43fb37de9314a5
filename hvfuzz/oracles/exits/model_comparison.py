"""Compares the device models of all domains with their second models: registers, and host memory.

The memory is compared as a whole: a model that writes beyond its own part hits another model's memory, or a canary.
Helper of the oracle `exits`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from hvfuzz.machine.addresses import PAGE_MASK, PAGE_SIZE, SIZE_MASK, WORD
from hvfuzz.oracles.exits.models.second_model import SecondModel

if TYPE_CHECKING:
    from hvfuzz.oracles.scene.scene import Scene

AREA: Final = 0x100
"""Bytes of host memory for all models of one domain."""
ALIGNMENT: Final = 0x40
"""Alignment of the memory of each model in its domain's area, in the order of the models."""
FIRST_AREA: Final = 0x40
"""Offset of domain 0's area in the bounce buffer, which begins with the two words of register data."""
Report = Callable[[str, str], None]
"""Takes a rule and a message."""


class DeviceModels:
    """Follows the device models of all domains. `seconds` must have one class for each model of the hypervisor."""

    def __init__(self, scene: Scene, seconds: Sequence[type[SecondModel]]) -> None:
        hypervisor = scene.hypervisor
        known = {second.name: second for second in seconds}
        for model in hypervisor.models:
            if model.placement.name not in known:
                raise ValueError(f"no second model of the device model {model.placement.name!r}")
        placements = [model.placement for model in hypervisor.models]
        self._classes: Final = [known[placement.name] for placement in placements]
        # From the contract, independent of the hypervisor's tables.
        self._ports: Final = {
            port: (placement.name, at) for placement in placements for at, port in enumerate(placement.ports)
        }
        self._pages: Final = {placement.page: placement.name for placement in placements if placement.page >= 0}
        self._offsets: Final[dict[str, int]] = {}
        end = 0
        for each in self._classes:
            self._offsets[each.name] = end
            end += -(-len(each(scene.machine.clock).memory()) // ALIGNMENT) * ALIGNMENT
        self._first: Final = hypervisor.bounce + FIRST_AREA
        self._size: Final = PAGE_SIZE - (self._first & PAGE_MASK)
        self._read: Final = scene.machine.memory.read
        self._domains: Final = hypervisor.domains
        self._clock: Final = scene.machine.clock
        self._base = b""
        """The memory at boot; the parts outside of any model never change."""
        self._seconds: list[dict[str, SecondModel]] = []
        """Second models, by domain and name."""
        self._timed: list[SecondModel] = []
        """Second models with a deadline."""
        self._used = True
        """Whether any model may differ from its power-on state."""

    def attach(self, report: Report) -> None:
        """Check that every domain has models of its own, in their power-on state, with canary words between them."""
        self.reset()
        first = self._first & ~PAGE_MASK
        secret = self._read(first, WORD)
        self._base = secret * (self._size // WORD)
        owners: dict[int, int] = {}
        for domain in self._domains:
            for model in domain.devices.by_name.values():
                owner = owners.setdefault(id(model), domain.id)
                if owner != domain.id:
                    report("model", f"dom{domain.id} has the device model {model.placement.name} of dom{owner}")
            places = {port: (domain.devices.by_name[name], at) for port, (name, at) in self._ports.items()}
            pages = {page: domain.devices.by_name[name] for page, name in self._pages.items()}
            if places != dict(domain.devices.by_port) or pages != dict(domain.devices.by_page):
                report("model", f"the ports or pages of the device models of dom{domain.id} lead to other models")
        self.judge(report)

    def reset(self) -> None:
        """Set every second model to its power-on state."""
        if self._used:
            self._seconds = [{each.name: each(self._clock) for each in self._classes} for _ in self._domains]
            every = [each for models in self._seconds for each in models.values()]
            self._timed = [each for each in every if type(each).expire is not SecondModel.expire]
            self._used = False

    def exit_started(self) -> None:
        """Expire deadlines that have passed; none exist before the first access to a model."""
        if self._used:
            for second in self._timed:
                second.expire()

    def port_exit_started(self) -> None:
        """An exit for port I/O begins, which may change any model."""
        self._used = True

    def at_port(self, domain: int, port: int) -> tuple[SecondModel | None, int]:
        """(second model at `port` of the domain or None, offset among its ports)."""
        place = self._ports.get(port)
        return (None, 0) if place is None else (self._seconds[domain][place[0]], place[1])

    def at_page(self, domain: int, page: int) -> SecondModel | None:
        """The second model at `page` of the domain's register window, or None."""
        name = self._pages.get(page)
        return None if name is None else self._seconds[domain][name]

    def mmio(self, second: SecondModel, offset: int, width: int, write: bool, value: int) -> int:
        """Access a register; returns the value of a load. Misaligned accesses read as zero and write nothing."""
        self._used = True
        if offset & width - 1:
            return 0
        if write:
            second.mmio_write(offset, width, value & SIZE_MASK[width])
            return 0
        return second.mmio_read(offset, width)

    def judge_registers(self, report: Report) -> None:
        """Report every model whose registers differ from those of its second model."""
        for domain, models in zip(self._domains, self._seconds, strict=True):
            for name, second in models.items():
                difference = second.difference(domain.devices.by_name[name])
                if difference:
                    report("model", f"device model {name} of dom{domain.id}: {difference}")

    def judge(self, report: Report) -> None:
        """Report differences of registers and of memory."""
        self.judge_registers(report)
        wanted = bytearray(self._base)
        for number, models in enumerate(self._seconds):
            for name, second in models.items():
                memory = second.memory()
                at = number * AREA + self._offsets[name]
                wanted[at : at + len(memory)] = memory
        found = self._read(self._first, self._size)
        if found != wanted:
            at = next(at for at, (is_, should) in enumerate(zip(found, wanted, strict=True)) if is_ != should)
            text = f"the memory of the device models is {found[at]:#x} at offset {at:#x}, expected {wanted[at]:#x}"
            report("model", text)
