"""The call stack: which struct and which copies belong to which call."""

from __future__ import annotations

from typing import Any

from hvfuzz.abi.boot import WORLDS
from hvfuzz.hypervisor.core.observer import Observer
from hvfuzz.oracles.framework.suite import OracleSuite
from hvfuzz.oracles.scene.call_stack import NO_DOMAIN
from hvfuzz.oracles.scene.running_call import RunningCall

ARRAY, STRUCT = 0xFFFF_8800_0004_0000, 0xFFFF_8800_0004_2000


def calls_of(rigs: Any, *lines: str) -> tuple[list[RunningCall], Any]:
    """The calls that a program makes, in the order in which they end; and the call stack afterwards."""
    ended: list[RunningCall] = []
    rig = rigs()

    class Recorder(Observer):
        def call_finished(self, *_: Any) -> None:
            ended.append(rig.suite._calls.current)

    rig.suite = OracleSuite(rig.machine, rig.hv, WORLDS[0], None, (Recorder(),))
    rig.suite.attach()
    rig.run(*lines)
    return ended, rig.suite._calls


def test_a_call_alone(rigs: Any) -> None:
    (call,), calls = calls_of(rigs, "memory.exchange(dom1, gfns=[0x60], out=0xffff880000041000, count=1)")
    assert call.outer is not None
    assert call.outer.outer is None
    assert [len(data) for _, data in call.reads] == [8]
    assert [(gva, len(data)) for gva, data in call.writes] == [(0xFFFF_8800_0004_1000, 8)]
    assert len(call.fresh) == 1
    assert not calls.running
    assert calls.exiting == NO_DOMAIN


def test_entries_of_a_multicall_have_structs_of_their_own(rigs: Any) -> None:
    (inner, outer), calls = calls_of(
        rigs,
        f"store(dom1, gva={ARRAY}, size=8, value=0x40)",
        f"store(dom1, gva={ARRAY + 8}, size=8, value={STRUCT})",
        f"store(dom1, gva={STRUCT}, size=8, value=0x10008)",
        f"multicall(dom1, entries={ARRAY}, count=1)",
    )
    assert inner.outer is outer
    assert inner.struct[0] == (STRUCT, (0x10008).to_bytes(8, "little"))
    assert outer.nested[0].number == 0x40
    assert calls.idle.begun == 1
