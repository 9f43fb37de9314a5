"""The trace of a recording has every event, is deterministic, folds what repeats, and recording changes nothing."""

import inspect
import sys
from collections.abc import Callable

import pytest

from hvfuzz.bugs import find_bug
from hvfuzz.explain.recording.recorder import Recorder
from hvfuzz.explain.telling.moment_words import KINDS
from hvfuzz.explain.telling.trace_lines import trace_lines
from hvfuzz.guest.format.text import parse
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget


def recorded(program: str, bug: str | None = None, *, verbose: bool = True) -> tuple[list[str], str]:
    """(lines, digest of the trace) of a run."""
    planted = None if bug is None else find_bug(bug)
    recorder = Recorder(planted)
    with EmulatedTarget(planted, observer=recorder) as target:
        digest = target.run(parse(program, target.catalogue), digest=True).trace.digest()
    return [*trace_lines(recorder.recording, verbose=verbose)], digest


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
        "walk    ept L4[0]=",
        "exit    VMCALL on vCPU 0 of dom1",
        "exit    EPT_VIOLATION on vCPU 0 of dom1, gpa 0xfe000000",
        "fetch   8 bytes at gva 0xffff880000010000",
        "call    memory.populate(first=0x400, count=1, order=0, flags=0)",
        "step    PopulatePage(domain=1, gfn=0x400",
        ": now OWNED, of dom1",
        ": now TABLE, of the hypervisor, as a page table of dom1",
        ": now HYPERVISOR, of the hypervisor",
        ": freed",
        "return  memory.populate: OK, result 1",
        "= OK, result 1",
        "race before fetch 2: store(dom1.1",
        "access  vCPU 1 of dom1 writes 8 bytes",
        "access  dma0 of dom1 reads 16 bytes",
        "= store: OK",
        "device  write 0x1 to register 0x18 of dma0",
        "map     gpa 0x400000 of dom1 to frame",
        "= event.alloc: OK",
        "call    sched.yield()",
        "point   the call can be preempted here",
        "= the guest gets #PF, error code 0",
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
    (at,) = [number for number, line in enumerate(lines) if line.startswith("      ! stale/iotlb/device.dma_unmap: ")]
    assert "step    UnmapDma" in "".join(lines[at - 3 : at]), "it is noticed when the step is done"


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


def test_every_kind_of_line_is_in_the_legend(lines: list[str]) -> None:
    assert {line.split()[0] for line in lines if line.startswith("        ")} <= set(KINDS)


def test_what_repeats_is_folded(text: Callable[..., str]) -> None:
    program = text(
        "memory.populate(dom1, first=0x400, count=64, order=0)",
        "memory.decrease(dom1, first=0x400, count=64)",
    )
    long, short = (recorded(program, verbose=verbose)[0] for verbose in (True, False))
    assert len(short) < len(long) / 8
    assert any("map     gpa 0x400000 to 0x43ffff of dom1 to frames" in line for line in short)
    assert any("59 more such steps" in line for line in short)
    assert {line for line in short if line[:4].strip().isdigit()} == {
        line for line in long if line[:4].strip().isdigit()
    }


@pytest.mark.parametrize("name", ["xsa-346", "xsa-380", "xsa-224"])
def test_no_name_of_a_planted_class_is_in_a_trace(name: str) -> None:
    """It would give the answer away: `ExchangeUnflushed`."""
    bug = find_bug(name)
    module = sys.modules[bug.replacement.__module__]
    own = {each for each, kind in vars(module).items() if inspect.isclass(kind) and kind.__module__ == module.__name__}
    assert own or name == "xsa-224"
    assert not any(each in line for line in recorded(bug.trigger, name)[0] for each in own)
