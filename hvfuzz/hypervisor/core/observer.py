"""Notifications from the hypervisor: a base class of no-ops that oracles override."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from hvfuzz.machine.addresses import LARGE_FRAMES

if TYPE_CHECKING:
    from hvfuzz.abi.status import Status
    from hvfuzz.machine.cpu.vcpu import VCpu


class AppliedStep(Protocol):
    """A step as an observer sees it: the class gives the kind of change, the fields its operands (`effects.Step`)."""


class Observer:
    """Receives a call at each event. An observer must not change the machine.

    `host_access` is by far the most frequent event: the hypervisor does not call it unless it is overridden.
    """

    __slots__ = ()

    def call_started(self, vcpu: VCpu, declaration: Any, args: Any) -> None:
        """A hypercall was decoded; `args` is an instance of its class, None if refused earlier. Multicalls nest."""

    def call_finished(self, vcpu: VCpu, declaration: Any, args: Any, status: Status, result: int, reason: str) -> None:
        """The call is complete, all its steps applied; `reason` names the refusing check ("" when OK)."""

    def frame_allocated(self, hfn: int, owner: int, state: int) -> None:
        """Frame `hfn` was allocated; its frame word and, for heap pages, its header are written."""

    def frame_freed(self, hfn: int) -> None:
        """Frame `hfn` was freed, or returned to a paging pool (state POOL); it is scrubbed and its word written."""

    def block_allocated(self, first: int, owner: int, state: int) -> None:
        """The 512 frames from `first` on were allocated, with the same owner and state."""
        for hfn in range(first, first + LARGE_FRAMES):
            self.frame_allocated(hfn, owner, state)

    def block_freed(self, first: int) -> None:
        """The 512 frames from `first` on were freed."""
        for hfn in range(first, first + LARGE_FRAMES):
            self.frame_freed(hfn)

    def host_access(self, hpa: int, size: int, write: bool) -> None:
        """The hypervisor is about to access host memory through its own mapping."""

    def guest_copy(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        """The hypervisor is about to copy from or to guest memory on behalf of `vcpu`."""

    def guest_written(self) -> None:
        """The bytes of the last `guest_copy` that writes are in memory now, and nothing has run since."""

    def step(self, step: AppliedStep) -> None:
        """A step of an effect is about to be applied."""

    def stepped(self, step: AppliedStep) -> None:
        """The step was applied: every invariant holds again."""

    def preemption_point(self) -> None:
        """The running call is at a preemption point."""


SILENT = Observer()
"""The default observer: ignores every event."""
