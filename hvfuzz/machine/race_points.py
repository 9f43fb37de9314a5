"""Points within an op at which something else may act: another vCPU, a device, or the passing of time.

An op reaches points of three kinds, each counted from 0: fetches of guest memory (`fetches`), writes of the host
(`raced_writes`), and the preemption points of a long call. An action can be armed for one of them.
"""

from collections.abc import Callable
from typing import Final

NO_TRIGGER: Final = -1


class RacePoints:
    """Counts the points of one kind that the current op has reached, and runs the armed action before one of them.

    The k-th point (from 0) is the one for which `count` is k when `before` is called.
    """

    __slots__ = ("action", "count", "trigger")

    def __init__(self) -> None:
        self.count: int = 0
        self.trigger: int = NO_TRIGGER
        self.action: Callable[[], None] | None = None

    def before(self) -> None:
        """A point is reached: run the armed action if it waits for this one."""
        number = self.count
        self.count = number + 1
        if number == self.trigger:
            action = self.action
            # Disarmed first: what acts may itself reach such a point, and must not start the race again.
            self.disarm()
            if action is not None:
                action()

    def arm(self, trigger: int, action: Callable[[], None]) -> None:
        """Run `action` once, before point number `trigger` of the current op."""
        self.trigger = trigger
        self.action = action

    def disarm(self) -> None:
        """Run no action."""
        self.trigger = NO_TRIGGER
        self.action = None

    def reset(self) -> None:
        """Begin a new op: the count is 0, nothing is armed."""
        self.count = 0
        self.disarm()
