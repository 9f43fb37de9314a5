"""Which listeners an event has: oracles, observers, and adapters from frames to blocks."""

from __future__ import annotations

from typing import Any

from hvfuzz.abi.boot import WORLDS
from hvfuzz.hypervisor.core.boot import boot
from hvfuzz.hypervisor.core.observer import Observer
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.hypervisor.memory.frames import FrameState
from hvfuzz.oracles.framework.suite import OracleSuite


def test_observers_hear_the_hypervisor_too() -> None:
    heard: list[str] = []

    class Listener(Observer):
        def call_finished(self, _vcpu: Any, declaration: Any, *_: Any) -> None:
            heard.append(declaration.name)

        def frame_freed(self, hfn: int) -> None:
            heard.append("freed")

    for enabled in (None, frozenset[str]()):
        hv = boot(WORLDS[0])
        suite = OracleSuite(hv.machine, hv, WORLDS[0], enabled, (Listener(),))
        suite.attach()
        hv.allocator.free_page(hv.allocator.alloc_heap_page())
        suite.call_finished(hv.machine.vcpus[0], ABI.by_name["sched.yield"], None, 0, 0, "")
    assert heard == ["freed", "sched.yield"] * 2


def test_who_knows_frames_hears_of_each_frame_of_a_block() -> None:
    heard: list[int] = []

    class Listener(Observer):
        def frame_allocated(self, hfn: int, owner: int, state: int) -> None:
            heard.append(hfn)

        def frame_freed(self, hfn: int) -> None:
            heard.remove(hfn)

    hv = boot(WORLDS[0])
    suite = OracleSuite(hv.machine, hv, WORLDS[0], None, (Listener(),))
    suite.attach()
    blocks = hv.allocator.choose_blocks(1)
    assert blocks is not None
    hv.allocator.take_block(blocks[0], 1, FrameState.OWNED)
    assert heard == list(range(blocks[0], blocks[0] + 512))
    hv.allocator.free_block(blocks[0])
    assert heard == []
