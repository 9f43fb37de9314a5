"""What every device model has: its placement, the host memory that it keeps, and registers.

A model is a class; `MODELS` in all_models.py lists those that each domain gets. Its class attributes are the
whole of its registration.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple, Protocol

from hvfuzz.hypervisor.core.host import HostBug
from hvfuzz.machine.addresses import SIZE_MASK

if TYPE_CHECKING:
    from hvfuzz.abi.device_models import Placement
    from hvfuzz.hypervisor.core.host import HostMemory
    from hvfuzz.hypervisor.memory.guest_access import GuestMemory
    from hvfuzz.machine.clock import Clock
    from hvfuzz.machine.cpu.vcpu import VCpu

AREA: Final = 0x100
"""Bytes of host memory for all models of one domain."""
ALIGNMENT: Final = 0x40
"""The memory of each model begins at such a boundary. What is left between two holds secrets."""


class Alarm(Protocol):
    """A model with a deadline: the exit handler calls `expire` at the first exit after it."""

    @property
    def domain(self) -> int: ...

    @property
    def deadline(self) -> int:
        """In cycles."""

    @property
    def port(self) -> int:
        """Event port that is told."""

    def expire(self) -> None: ...


class Site(NamedTuple):
    """What a model of one domain works with."""

    host: HostMemory
    clock: Clock
    domain: int
    memory: int
    """Host physical address of the `memory` bytes that the class asks for."""
    guests: GuestMemory
    """Guest memory, for a model that reads or writes it."""
    armed: dict[int, Alarm]
    """The models that have a deadline, by domain; at most one a domain."""


class Registers(Protocol):
    """What a load or store to the page of a model, or of a device, reaches."""

    def mmio_read(self, offset: int, size: int, /) -> int: ...

    def mmio_write(self, offset: int, size: int, value: int, /) -> None: ...


class DeviceModel:
    """A device model of one domain. A register that a subclass does not define reads as nothing and ignores writes."""

    __slots__ = ()

    placement: ClassVar[Placement]
    memory: ClassVar[int] = 0
    """Bytes of host memory that the model keeps, between the memory of other models and secrets."""

    def __init__(self, site: Site) -> None:
        self.reset()

    def reset(self) -> None:
        """Bring the model into the state after power-on."""

    def port_read(self, offset: int, size: int) -> int:
        """IN of 1, 2 or 4 bytes at `offset` of the model's ports."""
        return SIZE_MASK[size]

    def port_write(self, offset: int, size: int, value: int) -> None:
        """OUT of 1, 2 or 4 bytes."""

    def mmio_read(self, offset: int, size: int) -> int:
        """Load of 1, 2, 4 or 8 bytes, naturally aligned, at `offset` of the model's page."""
        return 0

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Store of the low `size` bytes of `value`."""

    def accessed_by(self, vcpu: VCpu) -> Registers:
        """The registers as `vcpu` reaches them; not `self` only if an access depends on the vCPU."""
        return self


class DomainDevices:
    """The device models of one domain, by name, port and page."""

    __slots__ = ("by_name", "by_page", "by_port")

    def __init__(self, models: Iterable[DeviceModel]) -> None:
        self.by_name: dict[str, DeviceModel] = {}
        self.by_port: dict[int, tuple[DeviceModel, int]] = {}
        """Port -> the model, and the offset of the port within the model's."""
        self.by_page: dict[int, DeviceModel] = {}
        """Page of the register window -> the model."""
        for model in models:
            placement = model.placement
            taken = placement.name in self.by_name or placement.page in self.by_page
            if taken or any(port in self.by_port for port in placement.ports):
                raise HostBug(f"device model {placement.name}: name, ports or page are those of another model")
            self.by_name[placement.name] = model
            self.by_port.update({port: (model, at) for at, port in enumerate(placement.ports)})
            if placement.page is not None:
                self.by_page[placement.page] = model


def memory_offsets(models: Iterable[type[DeviceModel]]) -> dict[str, int]:
    """Name of each model -> offset of its memory in the domain's area; HostBug if the area is too small."""
    offsets: dict[str, int] = {}
    end = 0
    for model in models:
        offsets[model.placement.name] = end
        end += -(-model.memory // ALIGNMENT) * ALIGNMENT
    if end > AREA:
        raise HostBug(f"the device models of a domain keep {end:#x} bytes of host memory, limit {AREA:#x}")
    return offsets
