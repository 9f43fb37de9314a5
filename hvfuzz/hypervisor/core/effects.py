"""What a checked hypercall will change: frozen steps, or the refusal that changes nothing.

A call's `check` only reads.  What it returns says exactly what will happen: dispatch alone applies the steps, in
order, with a preemption point wherever a long call has done its quota of work.  Steps are immutable values
(NamedTuples are the cheapest of those in CPython: half the construction time of a frozen dataclass).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from hvfuzz.abi.limits import UNMAP_BURST
from hvfuzz.abi.status import Status

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor

PREEMPTION_QUOTA = 64
"""Units of work that a long call may do before it must offer to be preempted."""

NO_WORK = 0
"""Default of `Step.work`: the step touches a handful of words, whatever the guest asked for."""

PAGE_WORK = 1
"""A step on one 4 KiB page: 64 of them fit between two preemption points."""

RELEASE_WORK = PREEMPTION_QUOTA // UNMAP_BURST
"""Letting go of one side of a grant mapping, flush included: 8 of them fit between two preemption points."""


class Step(Protocol):
    """One indivisible change of the hypervisor's state, a named tuple; oracles look at the machine before and after.

    A step of a long call whose work depends on what the guest asked for has a property `work`, in units of the
    PREEMPTION_QUOTA. Any other step does NO_WORK.
    """

    def apply(self, hv: Hypervisor) -> None:
        """Make the change.  The check promised that it cannot fail: an exception here is a hypervisor bug."""
        ...


def work_of(step: Step) -> int:
    """Units of work that `step` takes, of the PREEMPTION_QUOTA."""
    work: int = getattr(step, "work", NO_WORK)
    return work


Finish = Callable[["Hypervisor"], tuple[Status, int]]
"""Says (status, result) after the last step, for the calls whose outcome is known only then."""


class Effect(NamedTuple):
    """A call that passed its check: apply `steps` in order, then return OK and `result` (or what `finish` says)."""

    steps: tuple[Step, ...] = ()
    result: int = 0
    finish: Finish | None = None


class Refused(NamedTuple):
    """A call that failed its check; `reason` names the check in a few fixed words, without numbers of the run."""

    status: Status
    reason: str


NOTHING = Effect()
"""The effect of a call that changes nothing and returns zero."""
