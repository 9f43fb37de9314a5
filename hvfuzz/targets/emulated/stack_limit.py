"""The depth to which the emulated host may call: the same in every process, however deep the caller of the target is.

The limit of Python counts from the bottom of the stack. With that alone, a recursion of the host would end at a depth
that depends on the caller: a test runner, an engine and a command would see different effects of one fault.
"""

import re
import sys
from types import TracebackType
from typing import Final, Self

ALLOWANCE: Final = 1000
"""Calls above the target that the host, the machine and the oracles may nest; a legal program needs fewer than 100."""
_DEPTH: Final = re.compile(r"recursion depth (\d+)")


def stack_depth() -> int:
    """Depth of the caller, counted as the interpreter counts it.

    Python 3.11 counts calls of functions in C as well as frames, and later versions count frames only. The exact number
    is in the message with which every version refuses a limit below the present depth, and nowhere else.
    """
    try:
        sys.setrecursionlimit(1)
    except RecursionError as error:
        told = _DEPTH.search(str(error))
        if told is not None:
            return int(told[1])
    depth, frame = 0, sys._getframe()
    while frame.f_back is not None:
        depth, frame = depth + 1, frame.f_back
    return depth


class StackLimit:
    """While entered, lets calls nest `ALLOWANCE` deep above the point of entry."""

    __slots__ = ("_before",)

    def __init__(self) -> None:
        self._before: list[int] = []

    def __enter__(self) -> Self:
        self._before.append(sys.getrecursionlimit())
        sys.setrecursionlimit(stack_depth() + ALLOWANCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.setrecursionlimit(self._before.pop())
