"""Several calls in one VM exit."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from hvfuzz.abi.declaration import hypercall
from hvfuzz.abi.kinds import CallEntries, Count
from hvfuzz.abi.limits import MULTICALL
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core import dispatch
from hvfuzz.hypervisor.core.effects import PREEMPTION_QUOTA, Effect, Refused
from hvfuzz.hypervisor.memory import guest_access

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.cpu.vcpu import VCpu

NUMBER = 0x70
ENTRY = struct.Struct("<4Q")
"""Number and address of the argument struct; then, written back, status and result."""
OUTCOME = struct.Struct("<2Q")
OUTCOME_OFFSET = 16


class Batch:
    """How far a multicall has come: its outcome is known only when the last entry ran."""

    __slots__ = ("faulted", "succeeded")

    def __init__(self) -> None:
        self.succeeded = 0
        self.faulted = False

    def finish(self, hv: Hypervisor) -> tuple[Status, int]:
        """The status and result of the whole."""
        return (Status.FAULT, 0) if self.faulted else (Status.OK, self.succeeded)


class RunEntry(NamedTuple):
    """One entry of a batch is run as if called alone, and its outcome written back at `outcome`, a Gva."""

    batch: Batch
    vcpu: int
    number: int
    args: int
    outcome: int

    @property
    def work(self) -> int:
        """A whole call, which ends at a preemption point."""
        return PREEMPTION_QUOTA

    def apply(self, hv: Hypervisor) -> None:
        """The entries may unmap their own array: what ran stays done, the rest is not begun."""
        batch = self.batch
        if batch.faulted:
            return
        vcpu = hv.machine.vcpus[self.vcpu]
        status, result = run_entry(hv, vcpu, self.number, self.args)
        if not guest_access.copy_to_guest(hv, vcpu, self.outcome, OUTCOME.pack(status.word, result)):
            batch.faulted = True
        elif status is Status.OK:
            batch.succeeded += 1


def run_entry(hv: Hypervisor, vcpu: VCpu, number: int, args: int) -> tuple[Status, int]:
    """Run one entry; a multicall within a multicall would let a guest recurse in the host."""
    if number == NUMBER:
        return Status.INVALID, 0
    return dispatch.call(hv, vcpu, number, args)


@hypercall(
    NUMBER,
    name="multicall",
    result="number of entries whose status is OK",
    errors=(Status.INVALID, Status.FAULT),
    long=True,
)
class Multicall:
    """Run `count` (at most 16) calls in order, each as if it were made alone.

    An entry has four words: call number, address of the argument struct, status, result. The call reads all entries
    once, then writes the last two words of each entry when the entry's call has ended. A multicall within a multicall
    is `INVALID`.

    If the calls make the outcome of an entry inaccessible, the multicall ends with `FAULT` and does not run the later
    entries. The calls that ran are not undone, including the one of that entry.

    - `INVALID`: `count` is 0 or above 16.
    - `FAULT`: `entries` is not readable and writable.
    """

    entries: CallEntries
    count: Count

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """The count; the array, which is read once and must be writable."""
        if not 0 < self.count <= MULTICALL:
            return Refused(Status.INVALID, "number of entries")
        size = self.count * ENTRY.size
        array = guest_access.copy_from_guest(hv, vcpu, self.entries, size)
        if array is None:
            return Refused(Status.FAULT, "entries unreadable")
        if not guest_access.writable(hv, vcpu, self.entries, size):
            return Refused(Status.FAULT, "entries not writable")
        batch = Batch()
        steps = tuple(
            RunEntry(batch, vcpu.id, number, args, self.entries + index * ENTRY.size + OUTCOME_OFFSET)
            for index, (number, args, _, _) in enumerate(ENTRY.iter_unpack(array))
        )
        return Effect(steps, 0, batch.finish)
