"""Several calls in one VM exit."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from hvfuzz.abi.declaration import hypercall
from hvfuzz.abi.kinds import CallEntries, Count
from hvfuzz.abi.limits import MULTICALL
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core import dispatch
from hvfuzz.hypervisor.core.effects import Effect, Refused
from hvfuzz.hypervisor.core.work_quota import PREEMPTION_QUOTA
from hvfuzz.hypervisor.memory import guest_access

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.cpu.vcpu import VCpu

NUMBER = 0x70
ENTRY = struct.Struct("<4Q")
"""Number, address of the argument struct, then status and result, which are written back."""
OUTCOME = struct.Struct("<2Q")
OUTCOME_OFFSET = 16


class Batch:
    """Progress of one multicall: its outcome is known only after the last entry."""

    __slots__ = ("faulted", "succeeded")

    def __init__(self) -> None:
        self.succeeded = 0
        self.faulted = False

    def finish(self, hv: Hypervisor) -> tuple[Status, int]:
        """(status, result) of the multicall."""
        return (Status.FAULT, 0) if self.faulted else (Status.OK, self.succeeded)


class RunEntry(NamedTuple):
    """Run one entry as a call of its own, and write its status and result to guest address `outcome`."""

    batch: Batch
    vcpu: int
    number: int
    args: int
    outcome: int

    @property
    def work(self) -> int:
        """A whole quota: there is a preemption point after each entry."""
        return PREEMPTION_QUOTA

    def apply(self, hv: Hypervisor) -> None:
        """Run the entry, unless an earlier outcome could not be written.

        An entry may unmap the array itself: completed entries keep their effect, the others are not run.
        """
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
    """Run one entry; returns (status, result)."""
    # Without this check, a guest could exhaust the host's stack by nested multicalls.
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
        """Checks, in order: number of entries, array readable, array writable. The array is fetched once."""
        if not 0 < self.count <= MULTICALL:
            return Refused(Status.INVALID, "number of entries")
        size = self.count * ENTRY.size
        array = guest_access.copy_from_guest(hv, vcpu, self.entries, size)
        if array is None:
            return Refused(Status.FAULT, "entries unreadable")
        # Checked before the first entry runs: the outcome of each entry has to be stored.
        if not guest_access.writable(hv, vcpu, self.entries, size):
            return Refused(Status.FAULT, "entries not writable")
        batch = Batch()
        steps = tuple(
            RunEntry(batch, vcpu.id, number, args, self.entries + index * ENTRY.size + OUTCOME_OFFSET)
            for index, (number, args, _, _) in enumerate(ENTRY.iter_unpack(array))
        )
        return Effect(steps, 0, batch.finish)
