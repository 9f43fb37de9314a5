"""Timer of a domain: sends an event to a port of the domain, once or periodically.

A reduced HPET comparator (IA-PC HPET specification 1.0a, 2.3.9) over the virtual clock. Deadlines are whole ticks, as
a guest reads the number of expiries as often as it likes, and are checked at every VM exit.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

from hvfuzz.abi import device_models
from hvfuzz.hypervisor.core import dispatch
from hvfuzz.hypervisor.devices.device_model import DeviceModel
from hvfuzz.hypervisor.ipc import event_channels
from hvfuzz.hypervisor.vcpu.ticks import deadline, whole_ticks
from hvfuzz.machine.addresses import U64

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.hypervisor.devices.device_model import Alarm, Site


class Register(IntEnum):
    """Page offsets of the 8-byte registers. Accesses of other widths or offsets read as zero and ignore writes."""

    PORT = 0x100
    """The event port; an expiry sends no event if the domain does not have this port then."""
    PERIOD = 0x108
    """Cycles from one expiry to the next; 0 for a one-shot timer."""
    DELAY = 0x110
    """Writing arms the timer to expire after that many cycles; 0 disarms it. Reads as written, 0 after expiry."""
    EXPIRED = 0x118
    """Number of expiries since the last write to this register."""


WIDTH: Final = 8


class Timer(DeviceModel):
    """One timer. While armed, it is registered in `armed` under its domain's number."""

    __slots__ = ("armed", "clock", "deadline", "delay", "domain", "expired", "period", "port")

    placement = device_models.TIMER

    def __init__(self, site: Site) -> None:
        self.clock = site.clock
        self.armed = site.armed
        self.domain = site.domain
        super().__init__(site)

    def reset(self) -> None:
        """Set the timer to its power-on state, disarmed."""
        self.armed.pop(self.domain, None)
        self.port: int = 0
        self.period: int = 0
        self.delay: int = 0
        self.expired: int = 0
        self.deadline: int = 0
        """In cycles; valid while armed."""

    def mmio_read(self, offset: int, size: int) -> int:
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
                self.deadline = deadline(self.clock.cycles, value)
                self.armed[self.domain] = self
            else:
                self.armed.pop(self.domain, None)

    def expire(self) -> None:
        """Count the expiries since the deadline; then set the next deadline, or disarm a one-shot timer."""
        times = 1
        if self.period:
            step = whole_ticks(self.period)
            times += (self.clock.cycles - self.deadline) // step
            self.deadline += times * step
        else:
            self.delay = 0
            del self.armed[self.domain]
        self.expired = self.expired + times & U64


def expire(hv: Hypervisor) -> None:
    """Expire all timers whose deadline has passed, with one event each, however many periods have passed."""
    now = hv.machine.clock.cycles
    for number in sorted(hv.timers):
        timer = hv.timers[number]
        if timer.deadline <= now:
            timer.expire()
            notify(hv, timer)


def notify(hv: Hypervisor, timer: Alarm) -> None:
    """Send an event to the timer's port."""
    # The guest may have written any number, or closed the port since: do not dereference a missing bucket (XSA-221).
    if event_channels.lookup(hv.domains[timer.domain], timer.port) is not None:
        dispatch.commit(hv, (event_channels.Deliver(timer.domain, timer.port),))
