"""The list of events is complete, and every listener has the parameters that the list gives."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from hvfuzz.hypervisor.core.observer import Observer
from hvfuzz.oracles.framework.access_filter import AccessFilter
from hvfuzz.oracles.framework.all_oracles import CLOSE_WATCHERS, ORACLES
from hvfuzz.oracles.framework.events import EVENTS
from hvfuzz.oracles.scene.call_stack import CallStack

LISTENERS: tuple[Any, ...] = (CallStack, AccessFilter, *ORACLES, *CLOSE_WATCHERS)


@pytest.mark.parametrize("watcher", LISTENERS, ids=lambda watcher: str(watcher.__name__))
def test_listeners_have_the_parameters_of_their_event(watcher: Any) -> None:
    for event, (parameters, _) in EVENTS.items():
        # In classes with slots, the events that the access filter raises are slots.
        if inspect.isfunction(method := getattr(watcher, event, None)):
            assert ", ".join([*inspect.signature(method).parameters][1:]) == parameters, event


def test_events_of_the_hypervisor_are_those_of_its_observer() -> None:
    for event in set(vars(Observer)) - {"__module__", "__doc__", "__slots__", "__static_attributes__"}:
        if inspect.isfunction(method := getattr(Observer, event)):
            assert ", ".join([*inspect.signature(method).parameters][1:]) == EVENTS[event].parameters


def test_each_event_has_a_listener_and_a_meaning() -> None:
    for event, (_, meaning) in EVENTS.items():
        assert meaning
        assert any(hasattr(watcher, event) for watcher in LISTENERS), event
