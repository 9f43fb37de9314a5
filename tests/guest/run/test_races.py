"""What goes on in the middle of an op: where a race acts, and the ops that no vCPU executes."""

from __future__ import annotations

import pytest

from hvfuzz.abi.status import Status
from hvfuzz.bugs import Bug
from hvfuzz.explain.recording.recorder import Recorder
from hvfuzz.explain.telling.trace_lines import trace_lines
from hvfuzz.guest.format.text import parse
from hvfuzz.guest.run.trace import Outcome, Result
from hvfuzz.machine.physical_memory import PhysicalMemory
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

PAIR, VIRTIO = 0, 4
LONG = """\
memory.populate(dom1, first=0x100, count=64)
memory.populate(dom1, first=0x140, count=64)
"""


class Bench:
    """Runs programs in the world "pair", with all that happens in them as lines."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.target = EmulatedTarget(observer=self.recorder)

    def run(self, text: str, *, audit: bool = False, world: str = "pair") -> list[Outcome]:
        program = parse(f"# hvp 1\nworld {world}\n{text}", self.target.catalogue)
        run = self.target.run(program, audit=audit)
        assert run.findings == ()
        assert type(self.target.system(program.world).machine.memory) is PhysicalMemory or audit
        return run.trace.outcomes

    def order(self, *words: str) -> list[str]:
        """The first of these words in each line that has one, in the order of the lines."""
        lines = trace_lines(self.recorder.recording, verbose=True)
        return [found for line in lines if (found := next((word for word in words if word in line), ""))]


@pytest.fixture(scope="module")
def bench() -> Bench:
    """The clean hypervisor."""
    return Bench()


@pytest.mark.parametrize("step", [0, 1])
def test_a_race_at_a_step_acts_at_that_preemption_point(bench: Bench, step: int) -> None:
    bench.run(
        f"{LONG}memory.populate(dom1, first=0x180, count=64)\n"
        f"race at step {step}: load(dom1.1, gva=DIRECT+0x100000, size=8)\n"
        "memory.protect(dom1, first=0x100, count=192, rights=R)\n"
    )
    before = ["ProtectRange", "point"] * (step + 1)
    assert bench.order("ProtectRange", "point", "vCPU 1 of dom1 reads")[: len(before) + 1] == [
        *before,
        "vCPU 1 of dom1 reads",
    ]


def test_steps_are_those_of_the_raced_op(bench: Bench) -> None:
    """Calls before it have reached preemption points, too; found by the law of multicalls."""
    several = "multicall(dom1, count=2)\n  event.alloc(dom1, remote=dom0)\n  event.alloc(dom1, remote=dom0)\n"
    outcomes = bench.run(f"{several}race at step 0: load(dom1.1, gva=DIRECT+0x40000, size=8)\n{several}")
    load = bench.target.catalogue.by_name["load"].code
    assert [outcome.how for outcome in outcomes if outcome.code == load] == [Result.OK]


def test_between_the_entries_of_a_multicall_there_is_a_step(bench: Bench) -> None:
    """The struct of the second entry is fetched after it."""
    outcomes = bench.run(
        "race at step 0: store(dom1.1, gva=DIRECT+0x10888, size=4, value=99)\n"
        "multicall(dom1, count=2)\n  discovery.limits(dom1, what=GRANTS)\n  discovery.limits(dom1, what=GRANTS)\n"
    )
    assert [outcome.status for outcome in outcomes] == [0, 0, 0, int(Status.INVALID)]
    call = "call    discovery.limits"
    assert bench.order("vCPU 1 of dom1 writes", call) == [call, "vCPU 1 of dom1 writes", call]


@pytest.mark.parametrize("audit", [False, True])
def test_a_race_before_a_write_acts_before_it(bench: Bench, audit: bool) -> None:
    """A page is there for the other vCPU until its entry, the first word that the call writes, is cleared."""
    results = []
    for number in (0, 1):
        outcomes = bench.run(
            "store(dom1.1, gva=DIRECT+0x60000, size=8, value=7)\ntlb(dom1, capacity=0)\n"
            f"race before write {number}: load(dom1.1, gva=DIRECT+0x60000, size=8)\n"
            "memory.decrease(dom1, first=0x60, count=1)\n",
            audit=audit,
        )
        results.append(next((each.how, each.result) for each in outcomes[2:] if each.code == outcomes[0].code - 1))
    assert results[0] == (Result.OK, 7)
    assert results[1][0] == Result.FAULT


def test_what_exits_in_a_race_waits_for_the_end_of_the_exit(bench: Bench) -> None:
    for where in ("before fetch 1", "before write 0", "at step 0"):
        bench.run(f"{LONG}race {where}: sched.yield(dom2)\nmemory.protect(dom1, first=0x100, count=128, rights=R)\n")
        order = bench.order(
            "exit    VMCALL on vCPU 0 of dom1", "return  memory.protect", "exit    VMCALL on vCPU 0 of dom2"
        )
        assert order[-3:] == [
            "exit    VMCALL on vCPU 0 of dom1",
            "return  memory.protect",
            "exit    VMCALL on vCPU 0 of dom2",
        ]


def test_a_race_that_never_comes_to_its_point_is_not_performed(bench: Bench) -> None:
    outcomes = bench.run("race before write 63: load(dom1.1, gva=DIRECT, size=8)\nsched.yield(dom1)\n")
    assert len(outcomes) == 1


def test_memory_keeps_no_hooks_when_the_host_dies() -> None:
    def dies(hv: object, vcpu: object) -> None:
        raise RuntimeError

    bug = Bug(name="dies", replaces="hvfuzz.hypervisor.core.exits:cpuid", replacement=dies)
    with EmulatedTarget(bug) as target:
        text = "# hvp 1\nworld pair\nrace before write 5: pause(dom1.1)\ncpuid(dom1, leaf=0)\n"
        assert target.run(parse(text, target.catalogue)).trace.stopped == "host stopped"
        system = target.system(PAIR)
        assert not system.machine.race_pending
        system.suite.watch_closely(False)
        assert type(system.machine.memory) is PhysicalMemory


# Ops that no vCPU executes.

ENGINE = """\
device.dma_map(dom1, iova=0, gfn=0x40, count=2, rights=R|W)
device.dma_submit(dom1, device=0, from=0, to=0x1000, length=8)
store(dom1, gva=DIRECT+0x40000, size=8, value=5)
"""


@pytest.mark.parametrize("audit", [False, True])
def test_a_device_does_what_is_programmed_into_it(bench: Bench, audit: bool) -> None:
    outcomes = bench.run(f"{ENGINE}dma(dom1, device=0)\nload(dom1, gva=DIRECT+0x41000, size=8)\n", audit=audit)
    assert [each.how for each in outcomes] == [Result.OK] * 5
    assert outcomes[-1].result == 5
    assert bench.order("exit    VMCALL") == ["exit    VMCALL"] * 2


def test_a_device_of_another_domain_or_of_none_does_nothing(bench: Bench) -> None:
    outcomes = bench.run(f"{ENGINE}dma(dom2, device=0)\ndma(dom1, device=1)\ndma(dom1, device=200)\n")
    assert [each.how for each in outcomes[3:]] == [Result.SKIPPED] * 3


@pytest.mark.parametrize("audit", [False, True])
def test_a_device_acts_in_the_middle_of_a_call_and_for_its_own_vcpu(bench: Bench, audit: bool) -> None:
    """It is not the raced vCPU that performs it, so it may be of the same one; and its accesses are not the call's."""
    outcomes = bench.run(
        f"{ENGINE}race before fetch 1: dma(dom1, device=0)\n"
        "device.dma_submit(dom1, device=0, from=0x1000, to=8, length=8)\nload(dom1, gva=DIRECT+0x40008, size=8)\n",
        audit=audit,
    )
    assert outcomes[-1].result == 5


TIMER = """\
wrmsr(dom1, index=X2APIC_SVR, value=0x1ff)
wrmsr(dom1, index=X2APIC_LVT_TIMER, value=0x40)
wrmsr(dom1, index=X2APIC_INITIAL_COUNT, value=0x20000)
"""


def test_time_passes_to_the_next_deadline_and_the_interrupt_comes_at_the_next_exit(bench: Bench) -> None:
    outcomes = bench.run(f"{TIMER}timer(dom1)\nrdmsr(dom1, index=X2APIC_CURRENT_COUNT)\nrdmsr(dom1, index=0x822)\n")
    assert [each.result for each in outcomes[4:]] == [0, 1]
    assert outcomes[3].cycles - outcomes[2].cycles > 0x20000


def test_without_a_deadline_no_time_passes(bench: Bench) -> None:
    far = "wrmsr(dom1, index=X2APIC_DIVIDE, value=0xa)\nwrmsr(dom1, index=X2APIC_INITIAL_COUNT, value=0xffffffff)\n"
    for before in ("", far):
        *_, last = bench.run(f"{before}timer(dom1)\n")
        assert last.how == Result.SKIPPED


def test_a_waiting_vcpu_has_deadlines_too(bench: Bench) -> None:
    outcomes = bench.run(
        "r0 = event.alloc(dom1, remote=SELF)\nsched.poll(dom1, ports=[r0], count=1, timeout=0x40000)\n"
        "pause(dom1)\ntimer(dom1)\ncpuid(dom2, leaf=0)\npause(dom1)\n"
    )
    assert [each.how for each in outcomes[2:]] == [Result.SKIPPED, *[Result.OK] * 3]


@pytest.mark.parametrize("point", ["before fetch 1", "before write 0", "at step 0"])
@pytest.mark.parametrize("audit", [False, True])
def test_a_call_is_the_same_whenever_the_time_passes_in_it(bench: Bench, point: str, audit: bool) -> None:
    call = "memory.protect(dom1, first=0x100, count=128, rights=R)\n"
    plain = bench.run(LONG + TIMER + call + "rdmsr(dom1, index=0x822)\n", audit=audit)
    raced = bench.run(f"{LONG}{TIMER}race {point}: timer(dom1)\n{call}rdmsr(dom1, index=0x822)\n", audit=audit)
    assert [(each.status, each.result) for each in plain[-2:]] == [(0, 128), (0, 0)]
    assert [(each.status, each.result) for each in raced[-2:]] == [(0, 128), (0, 1)]
