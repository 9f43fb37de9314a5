"""The ABI version, the features and the limits of the hypervisor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

from hvfuzz.abi.declaration import hypercall
from hvfuzz.abi.kinds import U32, Choice
from hvfuzz.abi.limits import LIMITS
from hvfuzz.abi.status import Status
from hvfuzz.abi.versions import CURRENT, FAMILY_BITS, feature_bits
from hvfuzz.hypervisor.core.effects import Effect, Refused

if TYPE_CHECKING:
    from hvfuzz.hypervisor.core.domains import Domain
    from hvfuzz.hypervisor.core.hypervisor import Hypervisor
    from hvfuzz.machine.cpu.vcpu import VCpu

POOL_LIMIT = next(limit.what for limit in LIMITS if limit.value is None)
"""Name of the row of LIMITS whose value is the size of the caller's pool."""


class SetVersion(NamedTuple):
    """Set the contract version of `domain`, from its next call on."""

    domain: int
    version: int

    def apply(self, hv: Hypervisor) -> None:
        hv.domains[self.domain].version = self.version


@hypercall(0x01, result="version", errors=(Status.INVALID,))
class Version:
    """Negotiate the ABI version: the domain's version becomes `want`, or the newest version if `want` is above that.

    - `INVALID`: `want` is 0.
    """

    want: U32

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """Accept any version from 1 on; one above the current gives the current version."""
        if self.want == 0:
            return Refused(Status.INVALID, "version zero")
        version = min(self.want, CURRENT)
        return Effect((SetVersion(caller.id, version),), version)


@hypercall(0x02, result="bitmap", errors=(Status.INVALID,))
class Features:
    """Query the features of the hypervisor.

    Page 0 (FAMILIES) has a bit for each family of calls. Page 1 (ADDITIONS) has a bit for each later addition that the
    caller's version includes.

    - `INVALID`: `page` is neither 0 nor 1.
    """

    page: Annotated[int, Choice("FAMILIES", "ADDITIONS")]

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """Refuse pages other than 0 and 1."""
        if self.page == 0:
            return Effect((), FAMILY_BITS)
        if self.page == 1:
            return Effect((), feature_bits(caller.version))
        return Refused(Status.INVALID, "no such page")


@hypercall(0x03, result="limit", errors=(Status.INVALID,))
class Limits:
    """Read one of the limits, by its number.

    - `INVALID`: there is no limit with number `what`.
    """

    what: Annotated[int, Choice(*(limit.name for limit in LIMITS))]

    def check(self, hv: Hypervisor, caller: Domain, vcpu: VCpu) -> Effect | Refused:
        """Refuse an unknown number. All limits are constants, except the size of the caller's pool."""
        if self.what >= len(LIMITS):
            return Refused(Status.INVALID, "no such limit")
        value = LIMITS[self.what].value
        return Effect((), len(caller.pool) if value is None else value)
