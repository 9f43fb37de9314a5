"""What the hypervisor tells whoever watches it: a no-op base class that oracles override."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from hvfuzz.machine.addresses import LARGE_FRAMES

if TYPE_CHECKING:
    from hvfuzz.abi.status import Status
    from hvfuzz.machine.cpu.vcpu import VCpu


class AppliedStep(Protocol):
    """A step as an observer sees it: its class says what changes, its fields say where (`effects.Step`)."""


class Observer:
    """Every method is called at its moment and does nothing; an observer never changes the machine.

    The hypervisor skips the calls of `host_access` altogether while that method is not overridden: it is by far
    the most frequent one.
    """

    __slots__ = ()

    def call_started(self, vcpu: VCpu, declaration: Any, args: Any) -> None:
        """A hypercall was decoded; `args` is the instance of its class. Entries of a multicall nest."""

    def call_finished(self, vcpu: VCpu, declaration: Any, args: Any, status: Status, result: int, reason: str) -> None:
        """The call is over, all its steps applied; `reason` names the refusing check ("" when OK)."""

    def frame_allocated(self, hfn: int, owner: int, state: int) -> None:
        """Frame `hfn` is in use from now on; its frame word and, for heap pages, its header are written."""

    def frame_freed(self, hfn: int) -> None:
        """Frame `hfn` is free (or back in a paging pool: state POOL); it is scrubbed and its word written."""

    def block_allocated(self, first: int, owner: int, state: int) -> None:
        """The 512 frames from `first` on are in use from now on, all in the same way."""
        for hfn in range(first, first + LARGE_FRAMES):
            self.frame_allocated(hfn, owner, state)

    def block_freed(self, first: int) -> None:
        """The 512 frames from `first` on are free."""
        for hfn in range(first, first + LARGE_FRAMES):
            self.frame_freed(hfn)

    def host_access(self, hpa: int, size: int, write: bool) -> None:
        """The hypervisor itself is about to access host memory, through its own mapping."""

    def guest_copy(self, vcpu: VCpu, gva: int, hpa: int, size: int, write: bool) -> None:
        """The hypervisor is about to copy from or to guest memory on behalf of `vcpu`."""

    def step(self, step: AppliedStep) -> None:
        """A step of an effect is about to be applied."""

    def stepped(self, step: AppliedStep) -> None:
        """The step was applied: every invariant holds again."""

    def preemption_point(self) -> None:
        """The running call could be interrupted here."""


SILENT = Observer()
"""The observer of a hypervisor that nobody watches."""
