"""Judges a finished hypercall, and applies its effect to the abstract state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from types import MappingProxyType
from typing import Any, Final

from hvfuzz.abi.limits import LARGE_ORDER
from hvfuzz.abi.status import Status
from hvfuzz.machine.addresses import LARGE_FRAMES, U64, Hfn
from hvfuzz.oracles.contract.spec.blocks import frame_keys
from hvfuzz.oracles.contract.spec.calls import console, device, discovery, event, grant, memory, multicall, sched, time
from hvfuzz.oracles.contract.spec.cell_words import arguments
from hvfuzz.oracles.contract.spec.evidence import Evidence, Rule
from hvfuzz.oracles.contract.spec.state import State
from hvfuzz.oracles.contract.spec.undo_log import Key
from hvfuzz.oracles.contract.spec.verdict import (
    POOL_NEED,
    Accept,
    Bytes,
    Call,
    Expected,
    Mismatch,
    Observed,
    Tables,
    Touch,
)
from hvfuzz.oracles.scene.excuses import RESULT_GONE, TABLES_NEEDED, TARGET_GONE

OK: Final = Status.OK
FAULT: Final = Status.FAULT
SPEC: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        f"{family}.{name}" if name else family: rule
        for family, rules in (
            ("discovery", discovery.RULES),
            ("memory", memory.RULES),
            ("grant", grant.RULES),
            ("event", event.RULES),
            ("sched", sched.RULES),
            ("time", time.RULES),
            ("device", device.RULES),
            ("multicall", multicall.RULES),
            ("console", console.RULES),
        )
        for name, rule in rules.items()
    }
)
"""Name of a call -> its rule."""
TARGETS: Final[Mapping[str, Callable[[Any], tuple[int, int]]]] = MappingProxyType(
    {"memory.exchange": memory.exchange_target, "multicall": multicall.outcome_range}
)
"""Name of a call that writes guest memory -> the range (gva, size) that must be writable, from the arguments."""


def judge(state: State, call: Call, observed: Observed) -> Mismatch | None:
    """Judge the observed outcome. If the ABI allows it, apply the effect to `state` and return None.

    Afterwards `state.written` are the cells that the effect wrote; no other cell may have changed. After a Mismatch
    the state is unchanged and no longer describes the machine. Raises KeyError if there is no such call.
    """
    state.begin()
    evidence = Evidence(call.fetched, observed)
    expected = SPEC[call.name](state, call, evidence)
    if isinstance(expected, Mismatch):
        return expected
    if call.fetched and evidence.left_over:
        gva, data = evidence.left_over[0]
        return Mismatch("fetched", call.name, f"{len(data)} bytes at {gva:#x} that the call does not need")
    if isinstance(expected, Accept):
        if observed.status == OK:
            return _accepted(state, call, expected, evidence)
    elif observed.status == expected:
        if expected is FAULT and evidence.unfounded:
            return Mismatch("status", call.name, evidence.unfounded)
        _, result, written, fresh, pool, _, _, touched, _, _, _, _ = observed
        if not (result or written or fresh or touched) and pool == state.get(("pool", call.caller)):
            return None  # The frequent case of `_refused`.
        return _refused(state, call, evidence)
    if not _allowed(state, call, expected, evidence):
        return _wrong_status(call, expected, evidence)
    return _refused(state, call, evidence)


def expect(state: State, call: Call, observed: Observed | None = None) -> Expected:
    """What the rule of the call returns in this state. Changes nothing."""
    seen = Observed(Status.NO_CALL) if observed is None else observed
    return SPEC[call.name](state, call, Evidence(call.fetched, seen))


def _allowed(state: State, call: Call, expected: Status | Accept, evidence: Evidence) -> bool:
    """Whether the ABI allows the observed status although the rule expects another one."""
    status = evidence.observed.status
    if status == Status.FAULT and evidence.may_fault:
        state.excused.append(TARGET_GONE)
        return True
    if status == Status.NO_POOL and isinstance(expected, Accept) and expected.tables is Tables.NEEDED:
        pool = state.get(("pool", call.caller if expected.payer is None else expected.payer))
        state.excused.append(TABLES_NEEDED)
        frames = expected.fresh >> expected.order
        return pool is None or pool < POOL_NEED or 0 <= evidence.observed.denied - frames < POOL_NEED
    return False


def _wrong_status(call: Call, expected: Status | Accept, evidence: Evidence) -> Mismatch:
    """The Mismatch for a status that the ABI does not allow."""
    seen = evidence.observed.status
    status = Status.from_word(seen & U64)
    name = str(seen) if status is None else status.name
    wanted = "OK" if isinstance(expected, Accept) else expected.name
    either = " or FAULT" if evidence.may_fault else ""
    return Mismatch(
        "status", call.name, f"{name} where the contract says {wanted}{either}: {call.name}({arguments(call.args)})"
    )


def _refused(state: State, call: Call, evidence: Evidence) -> Mismatch | None:
    """Judge a refused call: it must change nothing."""
    observed = evidence.observed
    if observed.result:
        return Mismatch("result", call.name, f"refused, yet result {observed.result:#x}")
    if observed.written and not evidence.writes_judged and not same_bytes(None, observed.written):
        return Mismatch("written", call.name, f"refused, yet wrote to {observed.written[0][0]:#x}")
    if observed.touched:
        return Mismatch("moved", call.name, f"refused, yet moved {_touches(observed.touched)}")
    if observed.fresh:
        return Mismatch("fresh", call.name, f"refused, yet took {len(observed.fresh)} frames")
    before = state.get(("pool", call.caller))
    if observed.pool is not None and observed.pool != before:
        return Mismatch("pool", call.name, f"refused, yet the pool went from {before} to {observed.pool}")
    return None


def _accepted(state: State, call: Call, accept: Accept, evidence: Evidence) -> Mismatch | None:
    """Judge an accepted call by its result, writes, frames and pool; then apply its effect."""
    observed = evidence.observed
    if observed.result != accept.result:
        text = f"{observed.result:#x} where the contract says {accept.result:#x}"
        return Mismatch("result", call.name, text)
    if observed.written or accept.written is not None:
        lost = accept.losable and not observed.written and evidence.lost
        if lost:
            state.excused.append(RESULT_GONE)
        if not evidence.writes_judged and not lost and not same_bytes(accept.written, observed.written):
            wanted = () if accept.written is None else (accept.written,)
            return Mismatch(
                "written", call.name, f"{_bytes(observed.written)} where the contract says {_bytes(wanted)}"
            )
    if observed.touched != accept.moved:
        text = f"moved {_touches(observed.touched)} where the contract says {_touches(accept.moved)}"
        return Mismatch("moved", call.name, text)
    if observed.garbled:
        return Mismatch("moved", call.name, "what was written is not what was read")
    if observed.fresh or accept.fresh:
        wrong = _frames(state, accept, observed.fresh)
        if wrong:
            return Mismatch("fresh", call.name, wrong)
    key = ("pool", call.caller)
    before = state.get(key)
    if observed.pool is not None and observed.pool != before:
        # An unknown pool can only be adopted.
        tables = accept.tables if accept.payer in (None, call.caller) else Tables.UNTOUCHED
        if before is not None and not _pool_may_become(tables, before, observed.pool):
            return Mismatch("pool", call.name, f"the pool went from {before} to {observed.pool}")
        state[key] = observed.pool
    if accept.effect is not None:
        accept.effect(observed.fresh)
    if accept.payer not in (None, call.caller):
        del state["pool", accept.payer]
    return None


def _pool_may_become(tables: Tables, before: int, after: int) -> bool:
    """Whether the call may change the number of free table pages from `before` to `after`."""
    if tables is Tables.UNTOUCHED:
        return after == before
    if tables is Tables.RETURNED:
        return after >= before
    return after >= 0 and before - after <= POOL_NEED


def _frames(state: State, accept: Accept, fresh: tuple[Hfn, ...]) -> str | None:
    """Why the frames that the hypervisor chose are wrong; None if they are right."""
    if len(fresh) != accept.fresh:
        return f"{len(fresh)} frames where the contract says {accept.fresh}"
    if len(fresh) == 1 and not accept.order and 0 <= fresh[0] < state.frames and ("frame", fresh[0]) not in state:
        return None  # The frequent case, one frame, of the checks below.
    if len(fresh) == LARGE_FRAMES and accept.order == LARGE_ORDER and _unaligned(fresh, LARGE_FRAMES) is None:
        first = fresh[0]
        if 0 <= first <= state.frames - LARGE_FRAMES and state.cells.keys().isdisjoint(frame_keys(first)):
            return None  # One block, whose frames are distinct because it is aligned.
    if min(fresh) < 0 or max(fresh) >= state.frames:
        return "a frame that the machine does not have"
    if len(set(fresh)) != len(fresh):
        return "the same frame twice"
    unaligned = _unaligned(fresh, 1 << accept.order) if accept.order else None
    keys: Iterable[Key]
    if accept.order == LARGE_ORDER and unaligned is None:
        keys = chain.from_iterable(map(frame_keys, fresh[::LARGE_FRAMES]))
    else:
        keys = [("frame", hfn) for hfn in fresh]
    if not state.cells.keys().isdisjoint(keys):
        hfn = next(hfn for hfn in fresh if ("frame", hfn) in state)
        return f"frame {hfn:#x} is not free: {state.frame(hfn)}"
    return unaligned


def _unaligned(fresh: tuple[Hfn, ...], size: int) -> str | None:
    """Why the frames are not aligned blocks of `size`; None if they are."""
    for at in range(0, len(fresh), size):
        first = fresh[at]
        if first % size or fresh[at : at + size] != tuple(range(first, first + size)):
            return f"frames from {first:#x} on are not an aligned block of {size}"
    return None


def _touches(touched: tuple[Touch, ...]) -> str:
    """The moved bytes in words, for messages."""
    parts = [f"{size} bytes {'to' if write else 'from'} {hpa:#x}" for write, hpa, size in touched]
    return ", ".join(parts) or "nothing"


def _bytes(written: tuple[Bytes, ...]) -> str:
    """Written bytes in words, for messages."""
    return ", ".join(f"{data.hex()} at gva {gva:#x}" for gva, data in written) or "nothing"


def same_bytes(expected: Bytes | None, written: tuple[Bytes, ...]) -> bool:
    """Whether the written pieces, one after the other, are the expected bytes at the expected address."""
    gva, data = (0, b"") if expected is None else expected
    for start, piece in written:
        if piece and (start != gva or not data.startswith(piece)):
            return False
        gva += len(piece)
        data = data[len(piece) :]
    return not data
