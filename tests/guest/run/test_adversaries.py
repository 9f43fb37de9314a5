"""Ops that are no act of a guest: what each does to the machine, and for how long."""

from collections.abc import Iterator

import pytest

from hvfuzz.abi.status import Status
from hvfuzz.guest.format.binary import decode, encode
from hvfuzz.guest.format.text import parse, render
from hvfuzz.guest.program.instruction_kinds import ADVERSARIES as NAMES
from hvfuzz.guest.run.adversaries import ADVERSARIES
from hvfuzz.guest.run.trace import Outcome, Result
from hvfuzz.machine.shortage import NEVER
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

POPULATE = "memory.populate(dom1, first={:#x}, count=1, order=0)\n"


@pytest.fixture(scope="module")
def target() -> Iterator[EmulatedTarget]:
    """The hypervisor without a bug, all oracles on."""
    with EmulatedTarget() as emulated:
        yield emulated


def outcomes(target: EmulatedTarget, text: str, world: str = "pair") -> list[Outcome]:
    """The outcomes of a program, which must show no finding, and be the same by way of its bytes."""
    program = parse(f"# hvp 1\nworld {world}\n{text}", target.catalogue)
    assert parse(render(program), target.catalogue) == program
    assert decode(encode(program, target.catalogue), target.catalogue) == program
    run, again = target.run(program), target.run(program)
    assert (run.findings, again.findings) == ((), ())
    assert run.trace.digest() == again.trace.digest()
    assert target.system(program.world).machine.shortage.at == NEVER
    return run.trace.outcomes


def statuses(target: EmulatedTarget, text: str) -> list[int]:
    """The status of each op."""
    return [outcome.status for outcome in outcomes(target, text)]


def test_each_is_executed() -> None:
    assert set(NAMES) == set(ADVERSARIES)


def test_a_denial_is_for_the_next_op_of_any_actor(target: EmulatedTarget) -> None:
    text = "deny(dom2, request=0)\n" + POPULATE.format(0x200) + POPULATE.format(0x200)
    assert statuses(target, text) == [0, Status.NO_MEMORY, 0]
    text = "deny(dom2, request=0)\npause(dom1)\n" + POPULATE.format(0x200)
    assert statuses(target, text) == [0, 0, 0]


def test_the_last_of_several_denials_counts(target: EmulatedTarget) -> None:
    text = "deny(dom1, request=0)\ndeny(dom1, request=1)\n" + POPULATE.format(0x200)
    assert statuses(target, text) == [0, 0, Status.NO_POOL]


def test_a_denial_in_a_batch_counts_over_all_its_calls(target: EmulatedTarget) -> None:
    batch = "multicall(dom1, count=3)\n" + "".join("  " + POPULATE.format(first) for first in (0x200, 0x201, 0x400))
    # Frame and table of the first, frame of the second, frame and table of the third.
    expected = {
        0: [Status.NO_MEMORY, 0, 0],
        1: [Status.NO_POOL, 0, 0],
        2: [0, Status.NO_MEMORY, 0],
        3: [0, 0, Status.NO_MEMORY],
        4: [0, 0, Status.NO_POOL],
        5: [0, 0, 0],
    }
    for request, wanted in expected.items():
        assert statuses(target, f"deny(dom1, request={request})\n{batch}")[2:] == wanted


def test_a_denial_that_races_is_for_the_op_after_the_raced_one(target: EmulatedTarget) -> None:
    exchange = "store(dom1, gva=DIRECT+0x60000, size=8, value=0x40)\nrace 2: deny(dom1.1, request=0)\n"
    exchange += "memory.exchange(dom1, gfns=[0x50], out=[0], count=1, start=0)\n"
    assert statuses(target, exchange + POPULATE.format(0x200)) == [0, 0, 0, Status.NO_MEMORY]


@pytest.mark.parametrize("name", ["retain", "evict"])
def test_a_cache_that_does_not_exist_loses_nothing(target: EmulatedTarget, name: str) -> None:
    assert outcomes(target, f"{name}(dom1, cache=9, entry=0)\n")[0].how == Result.SKIPPED


def test_a_lost_entry_is_walked_for_again(target: EmulatedTarget) -> None:
    load = "load(dom1, gva=DIRECT+0x41000, size=8)\n"
    kept, lost, half = (
        outcomes(target, f"{load}{between}{load}")[-1].cycles - outcomes(target, load + between)[-1].cycles
        for between in ("pause(dom1)\n", "tlb(dom1, capacity=0)\n", "retain(dom1, cache=PAGING, entry=0)\n" + load)
    )
    assert kept == half < lost
    entries = range(8)
    costs = {outcomes(target, f"{load}evict(dom1, cache=TLB, entry={entry})\n{load}")[-1].cycles for entry in entries}
    assert len(costs) > 1
