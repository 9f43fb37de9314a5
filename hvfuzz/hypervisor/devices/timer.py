"""The timer of a domain: after a while, once or again and again, an event comes in on a port of the domain.

A reduced HPET comparator (IA-PC HPET specification 1.0a, 2.3.9) over the virtual clock. Deadlines are whole grains of
the clock, as all time that a guest is told, and are looked at when the hypervisor has control: at every VM exit.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

from hvfuzz.abi import device_models
from hvfuzz.abi.limits import CLOCK_GRAIN
from hvfuzz.hypervisor.core import dispatch
from hvfuzz.hypervisor.devices.device_model import DeviceModel
from hvfuzz.hypervisor.ipc import event_channels
from hvfuzz.hypervisor.vcpu.guest_clock import quantised
from hvfuzz.machine.addresses import U64

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.hypervisor.devices.device_model import Alarm, Site


class Register(IntEnum):
    """Offsets of the 8-byte registers in the page. They are accessed whole: others read as zero and ignore writes."""

    PORT = 0x100
    """The event port; nothing is told of an expiry if the domain has no such port at that moment."""
    PERIOD = 0x108
    """Cycles from one expiry to the next; 0: it expires once."""
    DELAY = 0x110
    """Writing arms it to expire after so many cycles, or disarms it (0). Reads as written; 0 when it has expired."""
    EXPIRED = 0x118
    """How often it has expired since this was written."""


WIDTH: Final = 8


class Timer(DeviceModel):
    """One timer; while it is armed, it is in `armed` under the number of its domain."""

    __slots__ = ("armed", "clock", "deadline", "delay", "domain", "expired", "period", "port")

    placement = device_models.TIMER

    def __init__(self, site: Site) -> None:
        self.clock = site.clock
        self.armed = site.armed
        self.domain = site.domain
        super().__init__(site)

    def reset(self) -> None:
        """Bring the timer into the state after power-on: disarmed."""
        self.armed.pop(self.domain, None)
        self.port: int = 0
        self.period: int = 0
        self.delay: int = 0
        self.expired: int = 0
        self.deadline: int = 0
        """In cycles, if it is armed."""

    def mmio_read(self, offset: int, size: int) -> int:
        """The register there."""
        if size != WIDTH:
            return 0
        if offset == Register.PORT:
            return self.port
        if offset == Register.PERIOD:
            return self.period
        if offset == Register.DELAY:
            return self.delay
        return self.expired if offset == Register.EXPIRED else 0

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Write the register there."""
        if size != WIDTH:
            return
        if offset == Register.PORT:
            self.port = value
        elif offset == Register.PERIOD:
            self.period = value
        elif offset == Register.EXPIRED:
            self.expired = 0
        elif offset == Register.DELAY:
            self.delay = value
            if value:
                self.deadline = quantised(self.clock.cycles) + grains(value)
                self.armed[self.domain] = self
            else:
                self.armed.pop(self.domain, None)

    def expire(self) -> None:
        """The deadline has passed: take the next one that has not, or none."""
        times = 1
        if self.period:
            step = grains(self.period)
            times += (self.clock.cycles - self.deadline) // step
            self.deadline += times * step
        else:
            self.delay = 0
            del self.armed[self.domain]
        self.expired = self.expired + times & U64


def grains(cycles: int) -> int:
    """So many cycles, rounded up to whole grains."""
    return quantised(cycles + CLOCK_GRAIN - 1)


def expire(hv: Hypervisor) -> None:
    """Let all timers expire whose deadline has passed: one event each, however often it did."""
    now = hv.machine.clock.cycles
    for number in sorted(hv.timers):
        timer = hv.timers[number]
        if timer.deadline <= now:
            timer.expire()
            notify(hv, timer)


def notify(hv: Hypervisor, timer: Alarm) -> None:
    """An event comes in on the timer's port, if there is one."""
    if event_channels.lookup(hv.domains[timer.domain], timer.port) is not None:
        dispatch.commit(hv, (event_channels.Deliver(timer.domain, timer.port),))
