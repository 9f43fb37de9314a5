"""Detects changes of state that an op must not touch: idle vCPUs, and serial ports without port I/O.

Helper of the oracle `exits`; reports nothing itself.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.scene.scene import Scene

_VCPU: Final = attrgetter("eptp", "vpid", "cr3", "cpl", "pending_fault", "regs")
"""State that only a vCPU's own instructions change (EPTP and VPID: nothing). Short, as it is compared often."""


class Bystanders:
    """State after the last op. `changes` yields the differences from it, and then adopts the current state."""

    def __init__(self, scene: Scene) -> None:
        self._vcpus: Final[list[VCpu]] = scene.machine.vcpus
        self._uarts: Final[list[Any]] = []
        self.ports = False
        """Whether this op did port I/O."""
        self._before: list[tuple[Any, ...]] = []
        self._accesses: list[int] = []
        self._base: tuple[Any, ...] = ([], [])

    def attach(self, uarts: Sequence[Any]) -> None:
        """Take the current state, which `booted_vcpus` checks, as the base; `uarts` are the serial ports, by domain."""
        self._uarts[:] = uarts
        self._base = (
            [_copy(vcpu) for vcpu in self._vcpus],
            [uart.accesses for uart in uarts],
        )
        self.reset()

    def reset(self) -> None:
        """Follow the machine's reset to its snapshot."""
        before, self._accesses = self._base
        self._before = list(before)
        self.ports = False

    def acted(self, acting: tuple[tuple[int, int], ...] | None) -> None:
        """Adopt the state of the `acting` vCPUs (None: any), after an op in which the hypervisor changed nothing."""
        before = self._before
        for vcpu in self._vcpus:
            if acting is None or (vcpu.domain, vcpu.index) in acting:
                before[vcpu.id] = (*before[vcpu.id][:2], *_copy(vcpu)[2:])
        self.ports = False

    def changes(self, acting: tuple[tuple[int, int], ...] | None) -> Iterator[tuple[str, str]]:
        """Yield (rule, message) for each change since the last op; `acting` vCPUs (None: any) may have changed."""
        before = self._before
        for vcpu in self._vcpus:
            then = before[vcpu.id]
            # Compare in place; copy only on a difference.
            if _VCPU(vcpu) != then:
                before[vcpu.id] = _copy(vcpu)
                if (vcpu.eptp, vcpu.vpid) != then[:2]:
                    yield "control", f"EPTP or VPID of a vCPU of dom{vcpu.domain} changed"
                elif acting is not None and (vcpu.domain, vcpu.index) not in acting:
                    yield "others", f"a vCPU of dom{vcpu.domain} changed in an op in which it did not act"
        accesses = [uart.accesses for uart in self._uarts]
        if accesses != self._accesses:
            self._accesses = accesses
            if not self.ports:
                yield "others", "a serial port was accessed in an op without port I/O"
        self.ports = False


def _copy(vcpu: VCpu) -> tuple[Any, ...]:
    """An immutable copy of the vCPU state that is compared."""
    *scalars, registers = _VCPU(vcpu)
    return (*scalars, registers.copy())
