"""The result of a hypercall's `check`: an effect made of steps, or a refusal.

`check` only reads. Its result describes every change to come. Only dispatch applies the steps, in order, with a
preemption point after each quota of work of a long call. Steps are immutable values (NamedTuples, which CPython
constructs in half the time of a frozen dataclass).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from hvfuzz.abi.limits import UNMAP_BURST
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.work_quota import PREEMPTION_QUOTA

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor

NO_WORK = 0
"""Default of `Step.work`: the step touches a few words, whatever the arguments."""

PAGE_WORK = 1
"""Work of a step on one 4 KiB page: 64 of them fit between two preemption points."""

RELEASE_WORK = PREEMPTION_QUOTA // UNMAP_BURST
"""Work of releasing one side of a grant mapping, flush included: 8 of them fit between two preemption points."""


class Step(Protocol):
    """One indivisible change of the hypervisor's state, a named tuple; oracles compare the machine before and after.

    A step of a long call has a property `work`, in units of the PREEMPTION_QUOTA, if its work depends on the arguments.
    Any other step counts as NO_WORK.
    """

    def apply(self, hv: Hypervisor) -> None:
        """Make the change. The check has established that it succeeds: an exception here is a hypervisor bug."""
        ...


Finish = Callable[["Hypervisor"], tuple[Status, int]]
"""Returns (status, result) after the last step, for calls whose outcome is known only then."""


class Effect(NamedTuple):
    """A call that passed its check: apply `steps` in order, then return OK and `result`, or what `finish` returns."""

    steps: tuple[Step, ...] = ()
    result: int = 0
    finish: Finish | None = None


class Refused(NamedTuple):
    """A call that failed its check. `reason` is a fixed name of the check, used as a coverage feature."""

    status: Status
    reason: str


NOTHING = Effect()
"""The effect of a call that changes nothing and returns zero."""
