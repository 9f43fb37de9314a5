"""One callable for all who listen at a moment.

The most frequent moments come several times an op, so the callable is generated: a plain function with the moment's
own parameters that calls each listener in turn, at half the cost of a loop over them with `*args`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from hvfuzz.machine.addresses import LARGE_FRAMES

PARAMETERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "exit_started": "vcpu",
        "exit_finished": "vcpu",
        "trap_started": "vcpu",
        "trap_finished": "vcpu",
        "call_started": "vcpu, declaration, args",
        "call_finished": "vcpu, declaration, args, status, result, reason",
        "shadow_changed": "change",
        "unusual_copies": "vcpu, declaration, args",
        "frame_allocated": "hfn, owner, state",
        "frame_freed": "hfn",
        "block_allocated": "first, owner, state",
        "block_freed": "first",
        "host_access": "hpa, size, write",
        "guest_copy": "vcpu, gva, hpa, size, write",
        "invalid_copy": "vcpu, gva, hpa, size, write",
        "foreign_copy": "vcpu, gva, hpa, size, write",
        "reentrant_exit": "vcpu",
        "step": "step",
        "stepped": "step",
        "preemption_point": "",
        "memory_access": "initiator, hpa, size, access",
        "dma_or_foreign_access": "initiator, hpa, size, access",
        "guest_load": "vcpu, hpa, size",
        "op_started": "",
        "op_finished": "",
    }
)
"""The moments, with what those who listen are told."""

Listener = Callable[..., None]


def nothing(*_: Any) -> None:
    """Where nobody listens."""


def each_allocated(listener: Listener) -> Listener:
    """What to call for a block that is allocated, if `listener` only knows frames."""

    def block_allocated(first: int, owner: int, state: int) -> None:
        for hfn in range(first, first + LARGE_FRAMES):
            listener(hfn, owner, state)

    return block_allocated


def each_freed(listener: Listener) -> Listener:
    """What to call for a block that is freed, if `listener` only knows frames."""

    def block_freed(first: int) -> None:
        for hfn in range(first, first + LARGE_FRAMES):
            listener(hfn)

    return block_freed


OF_FRAMES: Final = MappingProxyType(
    {"block_allocated": ("frame_allocated", each_allocated), "block_freed": ("frame_freed", each_freed)}
)
"""Moments of whole blocks: the moment of a frame, and what makes its listener one of blocks."""


def together(moment: str, listeners: Sequence[Listener]) -> Listener:
    """Calls all the listeners, in order; `nothing` itself if there are none, the listener itself if there is one."""
    if not listeners:
        return nothing
    if len(listeners) == 1:
        return listeners[0]
    parameters = PARAMETERS[moment]
    names = [f"listener{number}" for number in range(len(listeners))]
    calls = "".join(f"        {name}({parameters})\n" for name in names)
    source = f"def bind({', '.join(names)}):\n    def {moment}({parameters}):\n{calls}    return {moment}\n"
    namespace: dict[str, Any] = {"__name__": __name__}
    exec(compile(source, f"<listeners of {moment}>", "exec"), namespace)
    bound: Listener = namespace["bind"](*listeners)
    return bound
