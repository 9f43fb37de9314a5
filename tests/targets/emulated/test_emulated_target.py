"""The emulated target: several builds in one process, a host that dies or hangs, and a machine that is restored."""

import gc
from collections.abc import Callable

import pytest

from hvfuzz.bugs import Bug, find_bug
from hvfuzz.guest.format.text import parse
from hvfuzz.guest.run.trace import Result
from hvfuzz.hypervisor.core.host import HostFault
from hvfuzz.hypervisor.core.hypervisor import Hypervisor
from hvfuzz.hypervisor.hypercalls import console, sched
from hvfuzz.machine.physical_memory import PhysicalMemory
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget
from hvfuzz.targets.target import Run

POLL = "sched.poll(dom1, ports=[5], count=1, timeout=0)"
POPULATE = "memory.populate(dom1, first=0x400, count=1, order=0)"


def run(target: EmulatedTarget, program: str) -> Run:
    """One run with a digest of memory at the end."""
    return target.run(parse(program, target.catalogue), digest=True)


def identities(result: Run) -> list[str]:
    """Identities of the findings."""
    return [finding.identity for finding in result.findings]


def test_a_faulty_and_a_clean_build_run_in_one_process(text: Callable[..., str]) -> None:
    original = sched.polled_port
    with EmulatedTarget() as clean, EmulatedTarget(find_bug("xsa-221")) as faulty:
        for _ in range(2):
            assert identities(run(faulty, text(POLL))) == ["host_memory/null/sched.poll"]
            assert identities(run(clean, text(POLL))) == []
            assert sched.polled_port is original


def test_a_host_that_died_does_nothing_more(text: Callable[..., str]) -> None:
    with EmulatedTarget(find_bug("xsa-221")) as target:
        result = run(target, text(POPULATE, POLL, POPULATE))
        assert [outcome.how for outcome in result.trace.outcomes] == [Result.OK, Result.HOST_DOWN]
        assert result.trace.stopped
        assert identities(result) == ["host_memory/null/sched.poll"], "no audit runs on the unfinished state"


def test_the_machine_is_restored_after_a_host_died(text: Callable[..., str]) -> None:
    with EmulatedTarget(find_bug("xsa-221")) as target:
        before = run(target, text(POPULATE))
        run(target, text(POPULATE, POLL))
        after = run(target, text(POPULATE))
    assert after.trace.digest() == before.trace.digest()
    assert after.features == before.features


def test_an_op_that_does_not_end_is_a_finding(hanging: Bug, text: Callable[..., str]) -> None:
    with EmulatedTarget(hanging, hang_seconds=0.1) as target:
        before = run(target, text(POPULATE))
        result = run(target, text(POPULATE, POLL, POPULATE))
        assert identities(result) == ["work/hang/sched.poll"]
        assert result.findings[0].op == 1
        assert result.trace.stopped
        again = run(target, text(POPULATE))
    assert (again.trace.digest(), again.findings) == (before.trace.digest(), ())


def test_a_bug_in_boot_code_is_planted_in_time() -> None:
    def no_canaries(hv: object, domain: object, ram_pages: int) -> None:
        """Leave memory as it is."""

    bug = Bug("bare", "hvfuzz.hypervisor.core.boot:plant_canaries", no_canaries)
    with EmulatedTarget() as clean, EmulatedTarget(bug) as faulty:
        words = [bytes(target.system(0).machine.memory.data) for target in (clean, faulty)]
    assert words[0] != words[1]


def test_a_host_that_dies_at_boot_is_a_finding(text: Callable[..., str]) -> None:
    def dies(hv: object, domain: object, ram_pages: int) -> None:
        """A kernel panic."""
        raise HostFault("word read at 0x1")

    with EmulatedTarget(Bug("panic", "hvfuzz.hypervisor.core.boot:plant_canaries", dies)) as target:
        result = run(target, text(POPULATE))
        assert identities(result) == ["host_memory/fault/boot"]
        assert (result.ops, bool(result.trace.stopped)) == (0, True)


def test_a_vm_entry_that_the_processor_refuses_is_a_finding(text: Callable[..., str]) -> None:
    def no_tables(self: sched.WakeVcpu, hv: Hypervisor) -> None:
        """Give the vCPU that is kicked an EPTP that VM entry refuses."""
        vcpu = hv.domains[self.domain].vcpus[self.vcpu]
        hv.scheduler.wake(vcpu)
        vcpu.eptp = 0x5

    bug = Bug("no-tables", "hvfuzz.hypervisor.hypercalls.sched:WakeVcpu.apply", no_tables)
    with EmulatedTarget(bug) as target:
        result = run(target, text("sched.block(dom1.0)", "sched.kick(dom1.1, vcpu=0)", "cpuid(dom1.0, leaf=0)"))
        assert identities(result) == [
            "principal/state/sched.kick",
            "exits/control/cpuid",
            "host_memory/exception:VmEntryFailure/cpuid",
        ]
        assert result.trace.outcomes[-1].how == Result.HOST_DOWN


def test_a_state_that_crashes_an_oracle_is_a_finding_if_a_bug_is_planted(text: Callable[..., str]) -> None:
    def odd(self: console.WriteConsole, hv: Hypervisor) -> None:
        """Replace the console by something that is no buffer."""
        hv.domains[self.domain].console = None  # type: ignore[assignment]

    bug = Bug("odd", "hvfuzz.hypervisor.hypercalls.console:WriteConsole.apply", odd)
    with EmulatedTarget(bug) as target:
        result = run(target, text("console.write(dom1, text=DIRECT+0x40000, length=8)"))
        assert identities(result) == ["specification/state/console.write"]


def test_an_empty_set_of_oracles_means_no_oracle(text: Callable[..., str]) -> None:
    with EmulatedTarget(find_bug("xsa-78"), oracles=frozenset()) as target:
        assert run(target, find_bug("xsa-78").trigger).findings == ()


def test_an_unknown_oracle_is_refused(text: Callable[..., str]) -> None:
    with EmulatedTarget(oracles=frozenset({"astrology"})) as target, pytest.raises(ValueError, match="astrology"):
        target.system(0)


def test_the_size_of_host_memory_can_be_chosen(text: Callable[..., str]) -> None:
    with EmulatedTarget(memory_size=64 << 20) as target:
        assert identities(run(target, text(POPULATE))) == []
        assert target.system(0).machine.memory.size == 64 << 20


@pytest.mark.parametrize("audit", [False, True])
def test_a_closed_target_leaves_no_machine(audit: bool) -> None:
    """A cache that outlives it and has one of its classes, or one of its objects, as a key would keep all of it."""

    def machines() -> int:
        gc.collect()
        return sum(isinstance(each, PhysicalMemory) for each in gc.get_objects())

    def run() -> None:
        with EmulatedTarget() as target:
            program = parse("# hvp 1\nworld pair\nmemory.populate(dom1, first=0x400, count=1)\n", target.catalogue)
            target.run(program, audit=audit)

    run()
    before = machines()
    run()
    assert machines() <= before
