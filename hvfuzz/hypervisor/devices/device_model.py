"""Base class of device models: placement, host memory and registers.

`MODELS` in all_models.py lists the classes that each domain gets. The class attributes of a model register it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
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
"""Alignment of each model's memory. The gaps between models hold canary words."""


class Alarm(Protocol):
    """A model with a deadline: the exit handler calls `expire` at the first exit after it."""

    @property
    def domain(self) -> int: ...

    @property
    def deadline(self) -> int:
        """In cycles."""

    @property
    def port(self) -> int:
        """Event port to notify."""

    def expire(self) -> None: ...


class Site(NamedTuple):
    """The resources that one model of one domain gets."""

    host: HostMemory
    clock: Clock
    domain: int
    memory: int
    """Host physical address of the model's memory, of the size that its class attribute `memory` gives."""
    guests: GuestMemory
    """Access to guest memory."""
    armed: dict[int, Alarm]
    """Armed models, by domain; at most one per domain."""


class Registers(Protocol):
    """Registers of a device or device model, as loads and stores to its page access them."""

    def mmio_read(self, offset: int, size: int, /) -> int: ...

    def mmio_write(self, offset: int, size: int, value: int, /) -> None: ...


class DeviceModel:
    """A device model of one domain. By default, ports read as ones, MMIO registers as zero, and writes are ignored."""

    __slots__ = ()

    placement: ClassVar[Placement]
    memory: ClassVar[int] = 0
    """Bytes of host memory that the model needs; it lies among the memory of other models and canary words."""

    def __init__(self, site: Site) -> None:
        self.reset()

    def reset(self) -> None:
        """Set the model to its power-on state."""

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
        """The registers as `vcpu` accesses them; overridden only if an access depends on the vCPU."""
        return self


class DomainDevices(NamedTuple):
    """The device models of one domain, and where a guest finds them."""

    models: tuple[DeviceModel, ...]
    by_name: Mapping[str, DeviceModel]
    by_port: Mapping[int, tuple[DeviceModel, int]]
    """Port -> (model, offset of the port among those of the model)."""
    by_page: Mapping[int, DeviceModel]
    """Page of the register window -> model."""


def placed(models: Iterable[DeviceModel]) -> DomainDevices:
    """The models at their placements; HostBug if two have the same name, port or page."""
    models = tuple(models)
    by_name: dict[str, DeviceModel] = {}
    by_port: dict[int, tuple[DeviceModel, int]] = {}
    by_page: dict[int, DeviceModel] = {}
    for model in models:
        placement = model.placement
        taken = placement.name in by_name or placement.page in by_page
        if taken or any(port in by_port for port in placement.ports):
            raise HostBug(f"device model {placement.name}: name, ports or page collide with those of another model")
        by_name[placement.name] = model
        by_port.update({port: (model, at) for at, port in enumerate(placement.ports)})
        if placement.page >= 0:
            by_page[placement.page] = model
    # Read-only, so that no run has to restore them.
    return DomainDevices(models, MappingProxyType(by_name), MappingProxyType(by_port), MappingProxyType(by_page))


def memory_offsets(models: Iterable[type[DeviceModel]]) -> dict[str, int]:
    """Name of each model -> offset of its memory in the domain's area; HostBug if the area is too small."""
    offsets: dict[str, int] = {}
    end = 0
    for model in models:
        offsets[model.placement.name] = end
        end += -(-model.memory // ALIGNMENT) * ALIGNMENT
    if end > AREA:
        raise HostBug(f"the device models of a domain need {end:#x} bytes of host memory, limit {AREA:#x}")
    return offsets
