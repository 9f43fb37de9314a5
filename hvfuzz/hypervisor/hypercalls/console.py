"""The domain's console, which the control domain's log reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

from hvfuzz.abi.declaration import hypercall
from hvfuzz.abi.kinds import LENGTH, Bytes
from hvfuzz.abi.limits import CONSOLE
from hvfuzz.abi.status import Status
from hvfuzz.hypervisor.core.effects import Effect, Refused
from hvfuzz.hypervisor.memory import guest_access

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.cpu.vcpu import VCpu


class WriteConsole(NamedTuple):
    """Append `text` to the console of `domain`, which keeps the last 256 bytes."""

    domain: int
    text: bytes

    def apply(self, hv: Hypervisor) -> None:
        """Append, then cut to the last CONSOLE bytes: without the cut, a guest could exhaust host memory."""
        console = hv.domains[self.domain].console
        console += self.text
        del console[:-CONSOLE]


@hypercall(0x78, result="length", errors=(Status.INVALID, Status.FAULT))
class Write:
    """Write `length` bytes (at most 256) to the caller's console, which keeps the last 256 bytes written.

    - `INVALID`: `length` is above 256.
    - `FAULT`: `text` is not readable.
    """

    text: Bytes
    length: Annotated[int, LENGTH.trying(CONSOLE, CONSOLE + 1)]

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """Checks, in order: length, readability of the bytes."""
        # Without this check, a guest could have the host copy an arbitrary amount in one call.
        if self.length > CONSOLE:
            return Refused(Status.INVALID, "text too long")
        text = guest_access.copy_from_guest(hv, vcpu, self.text, self.length)
        if text is None:
            return Refused(Status.FAULT, "text unreadable")
        return Effect((WriteConsole(caller.id, text),), self.length)
