"""The trace recorder: a trace has every event, is deterministic, and recording changes nothing in the run."""

from collections.abc import Callable

import pytest

from hvfuzz.bugs import find_bug
from hvfuzz.guest.format.text import parse
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget
from hvfuzz.targets.emulated.trace_recorder import TraceRecorder


def recorded(program: str, bug: str | None = None) -> tuple[list[str], str]:
    """(lines, digest of the trace) of a run."""
    recorder = TraceRecorder()
    with EmulatedTarget(None if bug is None else find_bug(bug), observer=recorder) as target:
        digest = target.run(parse(program, target.catalogue), digest=True).trace.digest()
    return recorder.lines, digest


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """The trace of a program with most kinds of events."""
    program = """\
# hvp 1
world pair
tlb(dom1, capacity=0)
memory.populate(dom1, first=0x400, count=1, order=0)
device.dma_map(dom1, iova=0, gfn=0x400, count=1, rights=R|W)
race 2: store(dom1.1, gva=DIRECT+0x10418, size=8, value=16)
device.dma_batch(dom1, device=0, ring=[1, 0, 0, 8])
multicall(dom1, count=2)
  event.alloc(dom1, remote=dom2)
  sched.yield(dom1)
mmio_read(dom1, device=0, register=SRC, size=8)
load(dom1, gva=0x1000, size=8)
memory.exchange(dom2, gfns=[], out=[], count=65)
event.close(dom1, port=0)
"""
    return recorded(program)[0]


@pytest.mark.parametrize(
    "part",
    [
        "1  memory.populate(dom1, first=0x400, count=1, order=0)",
        "walk   ept L4[0]=",
        "table entries again",
        "exit   VMCALL on dom1.0",
        "exit   EPT_VIOLATION on dom1.0, gpa 0xfe000000",
        "fetch  8 bytes at gva 0xffff880000010000",
        "call   memory.populate(first=0x400, count=1, order=0, flags=0)",
        "step   PopulatePage(domain=1, gfn=0x400",
        ": now OWNED, owned by dom1",
        ": now TABLE, owned by dom1",
        ": now HYPERVISOR, owned by the hypervisor",
        ": released",
        "return memory.populate: OK, result 1",
        "= OK, result 1",
        "race before fetch 2: store(dom1.1",
        "access dom1.1 writes 8 bytes",
        "access dma0 reads 16 bytes",
        "= store: OK",
        "= device.dma_batch: OK",
        "= event.alloc: OK",
        "call   sched.yield()",
        "point  the call can be preempted here",
        "= guest fault: #PF, error code 0",
        "INVALID",
    ],
)
def test_a_trace_is_complete(lines: list[str], part: str) -> None:
    assert any(part in line for line in lines), "\n".join(lines)


def test_events_of_an_op_are_below_its_line(lines: list[str]) -> None:
    numbers = [int(line.split()[0]) for line in lines if line[:4].strip().isdigit()]
    assert numbers == [0, 1, 2, 3, 4, 7, 8, 9, 10], "batched calls are part of the multicall"


def test_findings_are_named_where_they_appear() -> None:
    lines, _ = recorded(find_bug("xsa-78").trigger, "xsa-78")
    assert lines[-1].startswith("      ! FINDING stale/iotlb/device.dma_unmap: ")


def test_a_trace_is_deterministic(lines: list[str], text: Callable[..., str]) -> None:
    program = text("multicall(dom1, count=1)", "  event.alloc(dom1, remote=dom2)")
    assert recorded(program) == recorded(program)
    assert not any(" object at 0x" in line for line in lines)


@pytest.mark.parametrize("bug", [None, "xsa-224", "xsa-221"])
def test_recording_changes_nothing(bug: str | None) -> None:
    program = find_bug("xsa-224" if bug is None else bug).trigger
    with EmulatedTarget(None if bug is None else find_bug(bug)) as target:
        digest = target.run(parse(program, target.catalogue), digest=True).trace.digest()
    assert recorded(program, bug)[1] == digest
