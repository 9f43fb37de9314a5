"""Fetches of guest memory: counted, logged, and interrupted by a racing vCPU.

The hypervisor fetches arguments, operands of instructions that it emulates, and the ring of coalesced writes. The
processor fetches the frame that IRET pops, and entries of the IDT and the TSS when it delivers an exception: these are
reads beyond the operand of an instruction. A race before the operand is the same as the other op before this one.
"""

from collections.abc import Callable
from typing import Final

NO_TRIGGER: Final = -1


class Fetches:
    """Counts and logs the fetches of the current op, and runs the action of a race before the fetch that it names.

    Each accessor calls `before()`; one in host context calls `record(...)` once it has translated the address. The k-th
    fetch of an op (from 0) is the one for which `count` is k when `before` is called.
    """

    __slots__ = ("action", "count", "log", "trigger")

    def __init__(self) -> None:
        self.count: int = 0
        self.log: list[tuple[int, int, int, int]] = []
        """(vCPU id, gva, hpa, size in bytes) of each piece fetched, in order."""
        self.trigger: int = NO_TRIGGER
        self.action: Callable[[], None] | None = None

    def before(self) -> None:
        """A fetch is about to happen: run the armed action if it waits for this one."""
        number = self.count
        self.count = number + 1
        if number == self.trigger:
            action = self.action
            # Disarmed first: the racing op may itself fetch, and must not start the race again.
            self.trigger = NO_TRIGGER
            self.action = None
            if action is not None:
                action()

    def record(self, vcpu_id: int, gva: int, hpa: int, size: int) -> None:
        """Log one fetched piece, which lies within one page."""
        self.log.append((vcpu_id, gva, hpa, size))

    def arm(self, trigger: int, action: Callable[[], None]) -> None:
        """Run `action` once, before fetch number `trigger` of the current op."""
        self.trigger = trigger
        self.action = action

    def reset(self) -> None:
        """Begin a new op: the count is 0, the log empty, nothing armed."""
        self.count = 0
        self.log.clear()
        self.trigger = NO_TRIGGER
        self.action = None
