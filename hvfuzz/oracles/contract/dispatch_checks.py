"""What the contract makes of a call before its check: a refusal, or its arguments; and whether a refusal is right."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hvfuzz.abi.limits import HEADER_SIZE
from hvfuzz.abi.status import Status
from hvfuzz.machine.addresses import READ, WRITE
from hvfuzz.machine.cpu.vmcs import RAX
from hvfuzz.machine.fetches import NO_TRIGGER
from hvfuzz.oracles.contract.spec import BY_NUMBER, TARGETS, Mismatch, decode, judge_dispatch
from hvfuzz.oracles.shadow.guest_walk import leads

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.framework.call_stack import Running
    from hvfuzz.oracles.framework.oracle import Scene

FAULT: Final = Status.FAULT
KNOWN: Final = 4096
"""Decoded structs that are remembered."""
UNKNOWN: Final = object()
"""In place of one that is not."""


class DispatchChecks:
    """Dispatch as the contract has it, for the calls of one machine."""

    def __init__(self, scene: Scene) -> None:
        self._machine: Final = scene.machine
        self._calls: Final = scene.calls
        self._privileged: Final = tuple(config.privileged for config in scene.world.domains)
        self._known: Final[dict[tuple[Any, ...], Any]] = {}
        self.translations: Final = {vcpu.id: partial(leads, scene.machine, vcpu) for vcpu in scene.machine.vcpus}
        """For each vCPU (by id) where its guest's translations lead."""

    def expected(self, vcpu: VCpu, running: Running, declaration: Any) -> Any:
        """A Status to refuse the call with, or its arguments; None where that cannot be told."""
        if declaration is not None:
            number: int = declaration.number
        elif running.outer is self._calls.idle:
            number = vcpu.vmcs.saved[RAX]
        else:
            return None  # The number is in the entries of a multicall, which looks after it.
        # A pure function of small values, which programs repeat all the time.
        key = (number, *[data for _, data in running.struct], running.version, vcpu.cpl, vcpu.domain)
        known = self._known
        wanted = known.get(key, UNKNOWN)
        if wanted is not UNKNOWN:
            return wanted
        header, body = _struct(running)
        privileged = self._privileged[vcpu.domain]
        wanted = judge_dispatch(running.version, vcpu.cpl, number, header, body, privileged=privileged)
        if wanted is None:
            wanted = decode(number, header or b"", body or b"") if number in BY_NUMBER else running.args
        if len(known) >= KNOWN:
            known.clear()
        known[key] = wanted
        return wanted

    def note_unwritable(self, vcpu: VCpu, declaration: Any) -> None:
        """A call begins that will have to write to the guest: see whether it can."""
        running = self._calls.current
        wanted = self.expected(vcpu, running, declaration)
        machine = self._machine
        # A race that is still to come may open the way. What sets flags may be set by another walk in the meantime.
        if not isinstance(wanted, Status) and machine.fetches.trigger == NO_TRIGGER:
            running.shut = not leads(machine, vcpu, *TARGETS[declaration.name](wanted), WRITE, flags=False)

    def judge_refusal(self, vcpu: VCpu, running: Running, wanted: Any, status: Any) -> Mismatch | None:
        """Judge a call that dispatch refused with `status`, by what the contract makes of it."""
        if running.writes or running.touched:
            return Mismatch("written", "", "refused before its check, yet it wrote")
        if wanted is not None and wanted != status:
            name = Status(status).name
            if isinstance(wanted, Status):
                return Mismatch("dispatch", "", f"{name} where the contract says {wanted.name}")
            return Mismatch("dispatch", "", f"{name} where the contract has no refusal")
        return self._unfounded(vcpu, running) if status is FAULT else None

    def _unfounded(self, vcpu: VCpu, running: Running) -> Mismatch | None:
        """Dispatch could not read the struct: then the guest's translations must not lead to it."""
        data = b"".join([piece for _, piece in running.struct])
        gva = running.struct[0][0] if running.struct else self._calls.pointer(running)
        size = HEADER_SIZE
        if len(data) >= HEADER_SIZE:
            gva, size = gva + HEADER_SIZE, int.from_bytes(data[:2], "little") - HEADER_SIZE
        if not self.translations[vcpu.id](gva, size, READ):
            return None
        return Mismatch("dispatch", "", f"FAULT, but nothing is in the way of reading {size} bytes at {gva:#x}")


def _struct(running: Running) -> tuple[bytes | None, bytes | None]:
    """Header and body of a call's struct, as far as they were fetched."""
    pieces = running.struct
    if len(pieces) == 2 and len(pieces[0][1]) == HEADER_SIZE:
        header, body = pieces[0][1], pieces[1][1]
        return header, body if len(body) == int.from_bytes(header[:2], "little") - HEADER_SIZE else None
    data = b"".join([piece for _, piece in pieces])
    if len(data) < HEADER_SIZE:
        return None, None
    rest = int.from_bytes(data[:2], "little") - HEADER_SIZE
    return data[:HEADER_SIZE], data[HEADER_SIZE:] if 0 < rest == len(data) - HEADER_SIZE else None
