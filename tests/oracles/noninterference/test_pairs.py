"""Noninterference finds, with all other oracles off, what only two runs show; each declared channel is needed."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from hvfuzz.bugs import Bug, find_bug
from hvfuzz.guest.format.text import parse
from hvfuzz.oracles.noninterference.channels import DECLARED, PASSAGES, Channel
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget
from hvfuzz.targets.harness import HARNESSES
from hvfuzz.targets.pairs.pair_target import PairTarget

HERE: Final = Path(__file__).parent
FAULTS: Final = sorted((HERE / "faults").glob("*.py"))
"""Faults of the author of this oracle."""
CORPUS: Final = HERE.parents[2] / "corpus"
ADVERSARY: Final = HERE.parent / "adversary"
FOREIGN: Final = {
    "c02_console_padded": "console/console.write",
    "c02_contiguous_frames": "memory/memory.exchange",
    "c02_cpuid_heap_bytes": "result/cpuid",
    "c02_ins_stale_bounce": "result/load",
    "c02_scrub_sizeof_pointer": "result/load",
    "c07_choose_time": "time/memory.populate",
    "c07_flush_time_by_cache": "time/memory.decrease",
    "c10_energy_counter": "result/rdmsr",
    "c10_grain_mask": "result/time.clock_read",
    "c10_pool_of_the_host": "result/discovery.limits",
    "c10_quota_shared": "status/time.clock_read",
    "c10_refused_call_leaves_rdx": "result/grant.revoke",
    "c10_ring_padding": "result/load",
    "c10_waits_for_a_grain": "result/rdtsc",
    "c10_yield_tells_runnable": "time/sched.yield",
}
"""Faults of an author who had not seen it, and the rule and operation of the first finding."""
POPULATE: Final = "memory.populate(dom1, first={:#x}, count={}, order=0)\n"

NEEDS: Final = {
    Channel.GRANTS: """\
r0 = grant.create(dom2, gfn=0x40, to=dom1, rights=R)
grant.map(dom1, granter=dom2, ref=r0, gfn=0x400, iova=0, flags=HOST|READONLY)
store(dom2, gva=DIRECT+0x40000, size=8, value=0x1234)
load(dom1, gva=DIRECT+0x400000, size=8)
""",
    Channel.EVENTS: """\
r0 = event.alloc(dom1, remote=dom2)
r1 = event.bind(dom2, remote=dom1, port=r0)
event.send(dom2, port=r1)
sched.block(dom1)
""",
    Channel.DEVICES: """\
mmio_write(dom1, device=0, register=SRC, size=8, value=0x1000)
device.deassign(dom0, device=0)
mmio_read(dom1, device=0, register=SRC, size=8)
""",
    Channel.GRAINS: "time.clock_read(dom1)\n",
    Channel.TICKS: """\
mmio_write(dom1, device=TIMER, register=TIMER_DELAY, size=8, value=0x4e20)
sched.yield(dom1)
mmio_read(dom1, device=TIMER, register=TIMER_EXPIRED, size=8)
""",
    Channel.WINDOWS: "rdtsc(dom1)\n" * 6,
    Channel.DEADLINES: """\
r0 = event.alloc(dom1, remote=dom0)
sched.poll(dom1.1, ports=[r0], count=1, timeout=20000)
sched.yield(dom2)
sched.yield(dom2)
sched.yield(dom2)
load(dom1.1, gva=DIRECT+0x40000, size=8)
""",
    Channel.FRAMES: """\
memory.populate(dom2, first=0x200, count=2, order=9)
memory.populate(dom2, first=0x600, count=1, order=9)
memory.populate(dom0, first=0x200, count=2, order=9)
memory.populate(dom0, first=0x600, count=1, order=9)
memory.populate(dom1, first=0x200, count=1, order=9)
""",
    Channel.PLACEMENT: "".join(
        (
            *(POPULATE.format(first, 64) for first in range(0x100, 0x200, 64)),
            POPULATE.format(0x400, 64),
            POPULATE.format(0x440, 47),  # no part of a block of 512 frames is left now
            "memory.populate(dom2, first=0x100, count=1, order=0)\n",
            *(POPULATE.format(first, 64) for first in range(0x200, 0x400, 64)),
            "memory.protect(dom1, first=0x200, count=512, rights=R|W)\n",
            "discovery.limits(dom1, what=POOL)\n",
        )
    ),
    Channel.RESULTS: """\
event.alloc(dom2, remote=dom0)
r1 = event.alloc(dom2, remote=dom0)
event.alloc(dom1, remote=dom0)
event.alloc(dom1, remote=dom0)
event.close(dom1, port=r1)
event.alloc(dom1, remote=dom0)
""",
}
"""For each channel, a program in which a domain learns something by it."""


@pytest.fixture(scope="module")
def clean() -> Iterator[PairTarget]:
    """The hypervisor without a fault."""
    with PairTarget() as target:
        yield target


def found(bug: Bug | None, text: str, declared: frozenset[Channel] = DECLARED) -> list[str]:
    """The identities of the findings, in order."""
    with PairTarget(bug, declared=declared) as target:
        return [finding.identity for finding in target.run(parse(text, target.catalogue)).findings]


@pytest.mark.parametrize("path", FAULTS, ids=lambda path: str(path.stem))
def test_a_fault_is_seen_and_the_clean_build_is_silent(path: Path, clean: PairTarget) -> None:
    bug = find_bug(str(path))
    assert clean.run(parse(bug.trigger, clean.catalogue)).findings == ()
    assert found(bug, bug.trigger)[:1] == list(bug.findings)


@pytest.mark.parametrize(("name", "identity"), FOREIGN.items(), ids=FOREIGN)
def test_a_fault_of_an_independent_author_is_seen(name: str, identity: str, clean: PairTarget) -> None:
    bug = find_bug(str(ADVERSARY / f"{name}.py"))
    assert clean.run(parse(bug.trigger, clean.catalogue)).findings == ()
    assert found(bug, bug.trigger)[:1] == [f"noninterference/{identity}"]


@pytest.mark.parametrize("name", ["exact_deadlines", "exact_poll", "stale_high_half"])
def test_no_other_oracle_sees(name: str) -> None:
    bug = find_bug(str(HERE / "faults" / f"{name}.py"))
    with EmulatedTarget(bug) as target:
        assert target.run(parse(bug.trigger, target.catalogue)).findings == ()


def test_all_faults_of_the_class_are_among_them() -> None:
    assert {path.stem for path in ADVERSARY.glob("c10_*.py")} <= FOREIGN.keys()


@pytest.mark.parametrize("channel", Channel)
def test_a_channel_is_needed(channel: Channel, clean: PairTarget) -> None:
    text = f"# hvp 1\nworld pair\n{NEEDS[channel]}"
    run = clean.run(parse(text, clean.catalogue))
    assert run.findings == ()
    assert run.trace.stopped == ""
    assert found(None, text, DECLARED - {channel})


@pytest.mark.parametrize("harness", sorted(HARNESSES))
def test_the_seeds_are_silent(harness: str, clean: PairTarget) -> None:
    paths = sorted((CORPUS / harness).glob("*.hvp"))
    assert paths
    for path in paths:
        assert clean.run(parse(path.read_text(), clean.catalogue)).findings == (), path


def test_the_contract_declares_each_channel() -> None:
    contract = re.sub(r"\s+", " ", (Path(__file__).parents[3] / "ABI.md").read_text())
    assert PASSAGES.keys() == set(Channel)
    for channel, passages in PASSAGES.items():
        assert passages or channel is Channel.RESULTS
        for passage in passages:
            assert passage in contract, channel


def test_the_message_names_both_values_and_the_cause() -> None:
    bug = find_bug(str(HERE / "faults" / "idle_in_cpuid.py"))
    with PairTarget(bug) as target:
        program = parse(bug.trigger, target.catalogue)
        (finding,) = target.run(program).findings
        assert finding.op == 1
        assert finding.message == (
            "registers: dom1 sees RBX of vCPU 0 0x1 in one run, 0x0 in another that differs in nothing that is "
            "addressed to it; what makes the difference: that op 0 is left out, sched.block(dom2)"
        )
        assert target.run(program).findings == (finding,), "the same again"


def test_the_domain_whose_secret_leaks_is_named() -> None:
    bug = find_bug(str(HERE / "faults" / "stale_high_half.py"))
    with PairTarget(bug) as target:
        finding = target.run(parse(bug.trigger, target.catalogue)).findings[0]
    assert finding.message.endswith("what makes the difference: what dom2 holds in memory and registers")


def test_a_difference_in_memory_is_found_where_it_begins() -> None:
    bug = find_bug(str(HERE / "faults" / "foreign_write.py"))
    with PairTarget(bug) as target:
        finding = target.run(parse(bug.trigger + "cpuid(dom2, leaf=0)\n" * 3, target.catalogue)).findings[0]
    assert (finding.identity, finding.op) == ("noninterference/memory/memory.decrease", 3)
