"""Which functions of the hypervisor run at this moment; a planted bug counts as the function that it replaces."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from hvfuzz.explain.recording.moments import Place

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
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code, module = frame.f_code, frame.f_globals.get("__name__", "")
        if bug is not None and (code.co_filename == file or module.startswith(BUGS)):
            place = replaced(bug)
            if not found or found[-1] != place:
                found.append(place)
        elif module.startswith(HYPERVISOR):
            found.append(Place(module, code.co_qualname, frame.f_lineno))
        frame = frame.f_back
    return tuple(found)


def replaced(bug: Bug) -> Place:
    """The function that `bug` replaces; its line is not known."""
    module, _, function = bug.replaces.partition(":")
    return Place(module, function, 0)


def _code_of(function: Callable[..., Any]) -> CodeType | None:
    inner = getattr(function, "__func__", function)
    code: CodeType | None = getattr(inner, "__code__", None)
    return code
