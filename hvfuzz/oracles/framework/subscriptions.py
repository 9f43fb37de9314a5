"""Finds the listeners of each event and makes one function of them, once, when the suite is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from hvfuzz.hypervisor.core.observer import Observer
from hvfuzz.oracles.framework.listeners import FRAME_EVENTS, Failed, Listener, nothing, together

PASSED_ON: Final = (
    "frame_allocated",
    "frame_freed",
    "block_allocated",
    "block_freed",
    "host_access",
    "guest_copy",
    "guest_written",
    "step",
    "stepped",
    "preemption_point",
)
"""Events of `Observer` that are passed on as they are, except for the vCPU of a copy: see `principal.attribution`."""
TOLD: Final = ("race_started", "race_finished", "device_started", "device_finished")
"""Events that the target tells, by methods of these names."""
OWN: Final = (
    "op_finished",
    "exit_started",
    "trap_started",
    "exit_finished",
    "reentrant_exit",
    "call_started",
    "unusual_copies",
    "shadow_changed",
    "call_finished",
)
"""Events that the suite raises itself, by a method of that name after an underscore."""

ALSO_OBSERVED: Final = "shadow_changed"
"""The event of the suite that an observer of a run hears as well, if it has that method."""


class RaisedEvents(Observer):
    """The methods by which a suite raises events itself: it makes them of what `Subscriptions` finds."""

    _op_finished: Listener
    _exit_started: Listener
    _trap_started: Listener
    _exit_finished: Listener
    _trap_finished: Listener
    _call_started: Listener
    _call_finished: Listener
    _shadow_changed: Listener
    _unusual_copies: Listener
    _reentrant_exit: Listener
    race_started: Listener
    race_finished: Listener
    device_started: Listener
    device_finished: Listener


class Subscriptions:
    """Finds the listeners of each event among `watchers`, `close_watchers` and `observers`, in that order.

    Watchers have the name under which `failed` hears of their exceptions. `page_written` listens to `host_access` if
    nothing else does: the shadow must know of pages written as a whole.
    """

    __slots__ = ("_close_watchers", "_failed", "_observers", "_page_written", "_watchers")

    def __init__(
        self,
        watchers: Sequence[tuple[str, Any]],
        close_watchers: Sequence[tuple[str, Any]],
        observers: Sequence[Observer],
        page_written: Listener | None,
        failed: Failed,
    ) -> None:
        self._watchers: Final = watchers
        self._close_watchers: Final = close_watchers
        self._observers: Final = observers
        self._page_written: Final = page_written
        self._failed: Final = failed

    def methods(self, *, closely: bool) -> dict[str, Listener]:
        """Name of each method of the suite that calls listeners -> that method; close watchers hear it if `closely`."""
        return {
            **{event: self.of(event, closely=closely) for event in (*PASSED_ON, *TOLD)},
            **{f"_{event}": self.of(event, closely=closely) for event in OWN},
            "_trap_finished": self.of("exit_finished", then="trap_finished", closely=closely),
        }

    def of(self, event: str, *, then: str = "", closely: bool = False) -> Listener:
        """The function to call at `event`; it also calls the close watchers, if `closely`.

        With `then`, an event of the same parameters, each watcher is told of that event right after the first one.
        """
        watchers = [*self._watchers, *self._close_watchers] if closely else self._watchers
        events = (event, then) if then else (event,)
        listeners: list[tuple[str | None, Listener]] = [
            (name, listener)
            for name, watcher in watchers
            for each in events
            if (listener := _listener(watcher, each)) is not None
        ]
        if event == "host_access" and not listeners and self._page_written is not None:
            listeners = [(None, self._page_written)]
        if hasattr(Observer, event) or event == ALSO_OBSERVED:
            heard = [_listener(observer, event) for observer in self._observers]
            listeners += [(None, listener) for listener in heard if listener is not None]
        return together(event, listeners, self._failed)


def _listener(watcher: Any, event: str) -> Listener | None:
    """The method of `watcher` that listens to `event`, None if it has none.

    For an event of a block, a watcher that only knows single frames gets an adapter.
    """
    listener: Listener | None = getattr(watcher, event, None)
    inherited = listener is not None and getattr(type(watcher), event, None) is getattr(Observer, event, nothing)
    if listener is not None and listener is not nothing and not inherited:
        return listener
    if event in FRAME_EVENTS:
        frame_event, for_each = FRAME_EVENTS[event]
        frame_listener = _listener(watcher, frame_event)
        return None if frame_listener is None else for_each(frame_listener)
    return None
