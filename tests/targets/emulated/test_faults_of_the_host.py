"""A fault of the host is a finding however it shows, and has one name at any depth of the caller."""

import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from hvfuzz.bugs import Bug
from hvfuzz.guest.format.text import parse
from hvfuzz.hypervisor.hypercalls import sched
from hvfuzz.hypervisor.vcpu import apic
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget
from hvfuzz.targets.emulated.stack_limit import ALLOWANCE, StackLimit, stack_depth
from hvfuzz.targets.target import Run

PROGRAM = "# hvp 1\nworld pair\nsched.block(dom1)\n"
BLOCK = "hvfuzz.hypervisor.hypercalls.sched:Block.check"


ERRORS = """\
# hvp 1
world pair
wrmsr(dom1, index=X2APIC_SVR, value=0x1ff)
wrmsr(dom1, index=0x837, value=3)
wrmsr(dom1, index=X2APIC_SELF_IPI, value=5)
"""


class Silent(Exception):
    """An exception that cannot be printed."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


def raising(error: type[BaseException]) -> Callable[..., Any]:
    """A function of the host that raises `error`."""

    def fail(*_: Any) -> None:
        raise error

    return fail


def recurse(*arguments: Any) -> Any:
    """Recurse without end, through events that the oracles observe."""
    hv = arguments[1]
    hv.host.observer.preemption_point()
    return sched.Block.check(*arguments)


def endless_generator(*_: Any) -> None:
    """Consume a generator that does not end."""
    for _ in iter(int, 1):
        pass


def allocate(*_: Any) -> bytearray:
    """Allocate more than any machine has."""
    return bytearray(1 << 60)


def lose_attribute(_: Any, hv: Any, *rest: Any) -> None:
    """Delete what the machine needs after the exit."""
    del hv.machine.clock.cycles


def lose_registers(_: Any, hv: Any, *rest: Any) -> None:
    """Leave no number in the registers of the guest, which the machine reads after the exit."""
    for vcpu in hv.machine.vcpus:
        vcpu.regs[:] = [None] * len(vcpu.regs)


FAULTS = [raising(error) for error in (
    MemoryError, RecursionError, SystemExit, KeyboardInterrupt, GeneratorExit, BaseException, StopIteration, Silent,
)] + [recurse, endless_generator, allocate, lose_attribute, lose_registers]  # fmt: skip
NAMES = [
    "exception:MemoryError", "exception:RecursionError", "exception:SystemExit", "exception:KeyboardInterrupt",
    "exception:GeneratorExit", "exception:BaseException", "exception:StopIteration", "exception:Silent",
    "exception:RecursionError", "hang", "exception:MemoryError", "exception:AttributeError", "exception:",
]  # fmt: skip


def planted(replacement: Callable[..., Any]) -> EmulatedTarget:
    """A target whose `sched.block` does `replacement`."""
    return EmulatedTarget(Bug("faulty", BLOCK, replacement), hang_seconds=0.3)


def block(target: EmulatedTarget) -> Run:
    """One run."""
    return target.run(parse(PROGRAM, target.catalogue))


@pytest.mark.parametrize(("replacement", "name"), list(zip(FAULTS, NAMES, strict=True)), ids=range(len(FAULTS)))
def test_every_fault_is_a_finding_of_its_program(replacement: Callable[..., Any], name: str) -> None:
    with planted(replacement) as target:
        for _ in range(2):  # also after the fault, from the booted state
            identities = [finding.identity for finding in block(target).findings]
            assert any(f"/{name}" in identity for identity in identities), identities


def at_depth(depth: int, work: Callable[[], Any]) -> Any:
    """The result of `work`, called `depth` calls deeper."""
    return work() if depth == 0 else at_depth(depth - 1, work)


@pytest.mark.parametrize("replacement", [recurse, raising(RecursionError)])
def test_a_recursion_has_one_name_at_any_depth(replacement: Callable[..., Any]) -> None:
    results = []
    with planted(replacement) as target:
        for depth in (10, 200, 600):
            run = at_depth(depth, lambda: block(target))
            results.append((run.findings, run.trace.digest()))
    assert results[0] == results[1] == results[2]
    assert [finding.identity for finding in results[0][0]] == ["host_memory/exception:RecursionError/sched.block"]


def recurse_in_an_error(hv: Any, vcpu: Any, error: int) -> None:
    """Note an error of the local APIC, and accept the interrupt of its LVT entry without a look at the vector."""
    apic.put(hv, vcpu, apic.ERRORS, apic.get(hv, vcpu, apic.ERRORS) | error)
    apic.accept(hv, vcpu, apic.get(hv, vcpu, apic.LVT_ERROR) & 0xFF)


def test_a_recursion_through_devices_and_oracles_has_one_name() -> None:
    """XSA-462: an error interrupt with an illegal vector is an error itself. Each depth ends at another function."""
    bug = Bug("recursion", "hvfuzz.hypervisor.vcpu.apic:fail", recurse_in_an_error)
    with EmulatedTarget(bug) as target:
        program = parse(ERRORS, target.catalogue)
        results = [at_depth(depth, lambda: target.run(program)) for depth in (10, *range(200, 220), 600)]
    assert {finding.identity for run in results for finding in run.findings} == {
        "host_memory/exception:RecursionError/wrmsr"
    }
    assert len({(run.findings, run.trace.digest()) for run in results}) == 1


def test_the_end_of_the_stack_in_an_oracle_is_no_fault_of_the_oracle() -> None:
    """The recursion begins at one of many depths, so that some end in an oracle that observes the host."""
    begun = []

    def fail(hv: Any, vcpu: Any, error: int) -> None:
        if begun:
            recurse_in_an_error(hv, vcpu, error)
        else:
            begun.append(vcpu)
            at_depth(depth, lambda: recurse_in_an_error(hv, vcpu, error))

    with EmulatedTarget(Bug("recursion", "hvfuzz.hypervisor.vcpu.apic:fail", fail)) as target:
        program = parse(ERRORS, target.catalogue)
        for depth in range(40):
            begun.clear()
            identities = [finding.identity for finding in target.run(program).findings]
            assert identities == ["host_memory/exception:RecursionError/wrmsr"], depth


def test_the_limit_is_measured_from_where_it_is_entered() -> None:
    before = sys.getrecursionlimit()

    def nest(left: int) -> int:
        return 0 if left == 0 else 1 + nest(left - 1)

    def measured() -> None:
        with StackLimit():
            assert sys.getrecursionlimit() - stack_depth() in range(ALLOWANCE - 3, ALLOWANCE + 4)
            assert nest(ALLOWANCE - 10) == ALLOWANCE - 10
            with pytest.raises(RecursionError):
                nest(ALLOWANCE + 10)

    for depth in (0, 100, 700):
        at_depth(depth, measured)
    assert sys.getrecursionlimit() == before


def test_a_thread_of_the_host_is_a_finding() -> None:
    go = threading.Event()

    def start(*_: Any) -> None:
        threading.Thread(target=go.wait, daemon=True).start()

    with planted(start) as target:
        identities = [finding.identity for finding in block(target).findings]
    go.set()
    assert "host_memory/thread/sched.block" in identities
