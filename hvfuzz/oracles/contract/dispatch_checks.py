"""Judges dispatch: whether a call must be refused before its own checks, and with which arguments it must run."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hvfuzz.abi.limits import HEADER_SIZE
from hvfuzz.abi.status import Status
from hvfuzz.machine.addresses import READ, WRITE
from hvfuzz.machine.cpu.registers import RAX
from hvfuzz.oracles.contract.spec import BY_NUMBER, TARGETS, Mismatch, decode, judge_dispatch
from hvfuzz.oracles.scene.excuses import RACE_PENDING
from hvfuzz.oracles.shadow.guest_walk import leads

if TYPE_CHECKING:
    from hvfuzz.machine.cpu.vcpu import VCpu
    from hvfuzz.oracles.scene.running_call import RunningCall
    from hvfuzz.oracles.scene.scene import Scene

FAULT: Final = Status.FAULT
KNOWN: Final = 4096
"""Most results of dispatch that are cached."""
UNKNOWN: Final = object()
"""Sentinel: not in the cache."""


class DispatchChecks:
    """Dispatch of the calls of one machine, by the specification."""

    def __init__(self, scene: Scene) -> None:
        self._machine: Final = scene.machine
        self._calls: Final = scene.calls
        self._excused: Final = scene.excused
        self._privileged: Final = tuple(config.privileged for config in scene.world.domains)
        self._known: Final[dict[tuple[Any, ...], Any]] = {}
        self.translations: Final = {vcpu.id: partial(leads, scene.machine, vcpu) for vcpu in scene.machine.vcpus}
        """Id of a vCPU -> whether its guest's translations allow an access (gva, size, access)."""

    def expected(self, vcpu: VCpu, running: RunningCall, declaration: Any) -> Any:
        """The Status that must refuse the call, or its arguments; None if that is not known."""
        if declaration is not None:
            number: int = declaration.number
        elif running.outer is self._calls.idle:
            number = self._calls.left[RAX]
        else:
            return None  # The number is in an entry of a multicall, whose rule judges it.
        # A pure function of a few small values, which programs often repeat.
        key = (number, *[data for _, data in running.struct], running.version, vcpu.cpl, vcpu.domain)
        known = self._known
        expected = known.get(key, UNKNOWN)
        if expected is not UNKNOWN:
            return expected
        header, body = _struct(running)
        privileged = self._privileged[vcpu.domain]
        expected = judge_dispatch(running.version, vcpu.cpl, number, header, body, privileged=privileged)
        if expected is None:
            expected = decode(number, header or b"", body or b"") if number in BY_NUMBER else running.args
        if len(known) >= KNOWN:
            known.clear()
        known[key] = expected
        return expected

    def note_unwritable(self, vcpu: VCpu, declaration: Any) -> None:
        """Set `running.shut` if the memory that the call must write is not writable when the call begins."""
        running = self._calls.current
        expected = self.expected(vcpu, running, declaration)
        machine = self._machine
        # A pending race may still make it writable. Accessed and dirty flags count as set: another walk may set them.
        if isinstance(expected, Status):
            return
        if machine.race_pending:
            self._excused(RACE_PENDING)
        else:
            running.shut = not leads(machine, vcpu, *TARGETS[declaration.name](expected), WRITE, flags=False)

    def judge_refusal(self, vcpu: VCpu, running: RunningCall, expected: Any, status: Any) -> Mismatch | None:
        """Judge a call that dispatch refused with `status`; `expected` is from the method of this name."""
        if running.writes or running.touched:
            return Mismatch("written", "", "refused before its check, yet it wrote")
        if expected is not None and expected != status:
            name = Status(status).name
            if isinstance(expected, Status):
                return Mismatch("dispatch", "", f"{name} where the contract says {expected.name}")
            return Mismatch("dispatch", "", f"{name} where the contract has no refusal")
        return self._unfounded(vcpu, running) if status is FAULT else None

    def _unfounded(self, vcpu: VCpu, running: RunningCall) -> Mismatch | None:
        """Judge a FAULT of dispatch: the guest's translations must not allow reading the struct."""
        data = b"".join([piece for _, piece in running.struct])
        gva = running.struct[0][0] if running.struct else self._calls.pointer(running)
        size = HEADER_SIZE
        if len(data) >= HEADER_SIZE:
            gva, size = gva + HEADER_SIZE, int.from_bytes(data[:2], "little") - HEADER_SIZE
        if not self.translations[vcpu.id](gva, size, READ):
            return None
        return Mismatch("dispatch", "", f"FAULT, but the {size} bytes at {gva:#x} are readable")


def _struct(running: RunningCall) -> tuple[bytes | None, bytes | None]:
    """Header and body of a call's struct as fetched; None for a part that was not fetched whole."""
    pieces = running.struct
    if len(pieces) == 2 and len(pieces[0][1]) == HEADER_SIZE:
        header, body = pieces[0][1], pieces[1][1]
        return header, body if len(body) == int.from_bytes(header[:2], "little") - HEADER_SIZE else None
    data = b"".join([piece for _, piece in pieces])
    if len(data) < HEADER_SIZE:
        return None, None
    rest = int.from_bytes(data[:2], "little") - HEADER_SIZE
    return data[:HEADER_SIZE], data[HEADER_SIZE:] if 0 < rest == len(data) - HEADER_SIZE else None
