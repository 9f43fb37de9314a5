"""What an op is not about stays as it is: vCPUs that do not act, serial ports without port I/O, unnamed devices."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.scene.scene import Scene

_VCPU: Final = attrgetter("eptp", "vpid", "cr3", "cpl", "pending_fault", "regs")
"""What only a vCPU's own instructions change; the first two, not even these. Looked at often: hence no more of it."""


class Bystanders:
    """What everything was like after the last op. `changes` says what is different now, and takes it as it is."""

    def __init__(self, scene: Scene) -> None:
        self._vcpus: Final[list[VCpu]] = scene.machine.vcpus
        self._devices: Final[list[Any]] = scene.machine.devices
        self._uarts: Final[list[Any]] = []
        self.devices: Final[set[int]] = set()
        """Numbers of the devices that this op was about, so far."""
        self.ports = False
        """There was port I/O in this op."""
        self._before: list[tuple[Any, ...]] = []
        self._accesses: list[int] = []
        self._registers: list[list[int]] = []
        self._private: list[bytes] = []
        self._base: tuple[Any, ...] = ([], [], [], [])

    def attach(self, uarts: Sequence[Any]) -> None:
        """Everything is as it should be; `uarts` are the serial ports, by domain."""
        self._uarts[:] = uarts
        self._base = (
            [_copy(vcpu) for vcpu in self._vcpus],
            [uart.accesses for uart in uarts],
            [list(device.registers) for device in self._devices],
            [bytes(device.private) for device in self._devices],
        )
        self.reset()

    def reset(self) -> None:
        """The machine is back at its snapshot."""
        before, self._accesses, self._registers, self._private = self._base
        self._before = list(before)
        self.devices.clear()
        self.ports = False

    def acted(self, acting: tuple[tuple[int, int], ...] | None) -> None:
        """Nothing was done in this op but by these vCPUs themselves: a refused call, a load or store, or less."""
        before = self._before
        for vcpu in self._vcpus:
            if acting is None or (vcpu.domain, vcpu.index) in acting:
                before[vcpu.id] = (*before[vcpu.id][:2], *_copy(vcpu)[2:])
        self.devices.clear()
        self.ports = False

    def changes(self, acting: tuple[tuple[int, int], ...] | None) -> Iterator[tuple[str, str]]:
        """(rule, what changed) since the last look; `acting` are the vCPUs that may have acted (None: any)."""
        before = self._before
        for vcpu in self._vcpus:
            then = before[vcpu.id]
            # Compared in place, and copied only where something is different.
            if _VCPU(vcpu) != then:
                before[vcpu.id] = _copy(vcpu)
                if (vcpu.eptp, vcpu.vpid) != then[:2]:
                    yield "control", f"the EPTP or VPID of a vCPU of dom{vcpu.domain} changes"
                elif acting is not None and (vcpu.domain, vcpu.index) not in acting:
                    yield "others", f"a vCPU of dom{vcpu.domain} changes in an op that it has no part in"
        if [device.registers for device in self._devices] != self._registers:
            for number, device in enumerate(self._devices):
                if device.registers != self._registers[number] and number not in self.devices:
                    yield "others", f"registers of {device.name} change in an op that is not about it"
            self._registers = [list(device.registers) for device in self._devices]
        if [device.private for device in self._devices] != self._private:
            for number, device in enumerate(self._devices):
                if device.private != self._private[number] and number not in self.devices:
                    yield "others", f"the memory of {device.name} changes in an op that is not about it"
            self._private = [bytes(device.private) for device in self._devices]
        accesses = [uart.accesses for uart in self._uarts]
        if accesses != self._accesses:
            self._accesses = accesses
            if not self.ports:
                yield "others", "a serial port is used in an op without port I/O"
        self.devices.clear()
        self.ports = False


def _copy(vcpu: VCpu) -> tuple[Any, ...]:
    """The state of a vCPU, which stays as it is."""
    *scalars, registers = _VCPU(vcpu)
    return (*scalars, registers.copy())
