"""Finds the listeners of each event and makes one function of them, once, when the suite is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from hvfuzz.hypervisor.core.observer import Observer
from hvfuzz.oracles.framework.listeners import FRAME_EVENTS, Listener, nothing, together

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


class Subscriptions:
    """Finds the listeners of each event among `watchers`, `close_watchers` and `observers`, in that order.

    `page_written` listens to `host_access` if nothing else does: the shadow must know of pages written as a whole.
    """

    __slots__ = ("_close_watchers", "_observers", "_page_written", "_watchers")

    def __init__(
        self,
        watchers: Sequence[Any],
        close_watchers: Sequence[Any],
        observers: Sequence[Observer],
        page_written: Listener | None,
    ) -> None:
        self._watchers: Final = watchers
        self._close_watchers: Final = close_watchers
        self._observers: Final = observers
        self._page_written: Final = page_written

    def of(self, event: str, *, then: str = "", closely: bool = False) -> Listener:
        """The function to call at `event`; it also calls the close watchers, if `closely`.

        With `then`, an event of the same parameters, each watcher is told of that event right after the first one.
        """
        watchers = [*self._watchers, *self._close_watchers] if closely else self._watchers
        events = (event, then) if then else (event,)
        listeners = [listener for watcher in watchers for each in events if (listener := _listener(watcher, each))]
        if event == "host_access" and not listeners and self._page_written is not None:
            listeners = [self._page_written]
        if hasattr(Observer, event):
            listeners += [listener for observer in self._observers if (listener := _listener(observer, event))]
        return together(event, listeners)


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
