"""Fetches of guest memory: counted, logged, and interrupted by what races the op.

The hypervisor fetches arguments, operands of instructions that it emulates, and the ring of coalesced writes. The
processor fetches the frame that IRET pops, and entries of the IDT and the TSS when it delivers an exception: these are
reads beyond the operand of an instruction. A race before the operand is the same as the other op before this one.
"""

from hvfuzz.machine.race_points import NO_TRIGGER, RacePoints


class Fetches(RacePoints):
    """Counts and logs the fetches of the current op.

    Each accessor calls `before()`; one in host context calls `record(...)` once it has translated the address.
    """

    __slots__ = ("log",)

    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple[int, int, int, int]] = []
        """(vCPU id, gva, hpa, size in bytes) of each piece fetched, in order."""

    def record(self, vcpu_id: int, gva: int, hpa: int, size: int) -> None:
        """Log one fetched piece, which lies within one page."""
        self.log.append((vcpu_id, gva, hpa, size))

    def reset(self) -> None:
        """Begin a new op: the count is 0, the log empty, nothing armed."""
        # Every op comes here, so nothing is called.
        self.count = 0
        self.log.clear()
        self.trigger = NO_TRIGGER
        self.action = None
