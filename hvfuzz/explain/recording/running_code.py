"""Which functions of the hypervisor run at this moment; a planted bug counts as the function that it replaces."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from hvfuzz.explain.recording.recorded_moments import Place

if TYPE_CHECKING:
    from types import CodeType, FrameType

    from hvfuzz.bugs import Bug

HYPERVISOR: Final = "hvfuzz.hypervisor."
BUGS: Final = "hvfuzz.bugs."


def places(bug: Bug | None) -> tuple[Place, ...]:
    """The running functions of the hypervisor, the innermost first; no name of a planted bug's own code is among them.

    A helper or a step of the bug's own has no place in the hypervisor: it counts as the replaced function as well.
    """
    planted = None if bug is None else _code_of(bug.replacement)
    file = None if planted is None else planted.co_filename
    found: list[Place] = []
    for frame in _frames():
        code, module = frame.f_code, frame.f_globals.get("__name__", "")
        if bug is not None and (code.co_filename == file or module.startswith(BUGS)):
            place = replaced(bug)
            if not found or found[-1] != place:
                found.append(place)
        elif module.startswith(HYPERVISOR):
            found.append(Place(module, code.co_qualname, frame.f_lineno))
    return tuple(found)


def _frames() -> Iterator[FrameType]:
    """The running frames, the innermost first; where an exception is being handled, those that it has left."""
    fault = sys.exc_info()[1]
    if fault is not None:
        yield from reversed([frame for frame, _ in traceback.walk_tb(fault.__traceback__)])
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back


def place_of_step(step: object, bug: Bug | None) -> Place:
    """Where a step is applied: its `apply`; a step of the bug's own counts as the function that the bug replaces."""
    cls = type(step)
    if bug is not None and not cls.__module__.startswith(HYPERVISOR):
        return replaced(bug)
    return Place(cls.__module__, f"{cls.__qualname__}.apply", 0)


def replaced(bug: Bug) -> Place:
    """The function that `bug` replaces; its line is not known."""
    module, _, function = bug.replaces.partition(":")
    return Place(module, function, 0)


def _code_of(function: Callable[..., Any]) -> CodeType | None:
    inner = getattr(function, "__func__", function)
    code: CodeType | None = getattr(inner, "__code__", None)
    return code
