"""The laws find, with all other oracles off, what only two runs show; the clean hypervisor keeps them."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from hvfuzz.bugs import Bug, find_bug
from hvfuzz.campaign.minimise.minimiser import minimise
from hvfuzz.guest.format.text import parse
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget
from hvfuzz.targets.harness import HARNESSES
from hvfuzz.targets.laws.law_table import BY_NAME, LAWS
from hvfuzz.targets.laws.law_target import LawTarget
from hvfuzz.targets.pairs.pair_target import PairTarget
from hvfuzz.targets.pairs.sampled_target import SampledTarget, target_that_shows

HERE: Final = Path(__file__).parent
FAULTS: Final = sorted((HERE / "faults").glob("*.py"))
CORPUS: Final = HERE.parents[2] / "corpus"
UNSEEN_BY_OTHERS: Final = (
    "polls_from_the_batch_on",
    "given_up_after_many",
    "freed_below_the_hint",
    "slow_console_of_one",
)
"""For each law, a fault of which no other oracle sees anything in the program."""


@pytest.fixture(scope="module")
def clean() -> Iterator[LawTarget]:
    """The hypervisor without a fault."""
    with LawTarget() as target:
        yield target


def fault(name: str) -> Bug:
    return find_bug(str(HERE / "faults" / f"{name}.py"))


@pytest.mark.parametrize("path", FAULTS, ids=lambda path: str(path.stem))
def test_a_fault_is_seen_and_the_clean_build_is_silent(path: Path, clean: LawTarget) -> None:
    bug = find_bug(str(path))
    program = parse(bug.trigger, clean.catalogue)
    assert clean.run(program).findings == ()
    with LawTarget(bug) as target:
        run = target.run(program)
        assert [finding.identity for finding in run.findings[:1]] == list(bug.findings)
        assert target.run(program).findings == run.findings, "the same again"


def test_each_law_has_faults_that_break_it() -> None:
    laws = Counter(find_bug(str(path)).findings[0].split("/")[1] for path in FAULTS)
    assert laws.keys() == BY_NAME.keys()
    assert min(laws.values()) >= 3


def test_each_law_finds_what_no_other_oracle_does() -> None:
    assert {fault(name).findings[0].split("/")[1] for name in UNSEEN_BY_OTHERS} == BY_NAME.keys()
    for name in UNSEEN_BY_OTHERS:
        bug = fault(name)
        with EmulatedTarget(bug) as judged, PairTarget(bug) as pairs:
            program = parse(bug.trigger, judged.catalogue)
            assert judged.run(program).findings == ()
            assert pairs.run(program).findings == ()


@pytest.mark.parametrize("harness", sorted(HARNESSES))
def test_the_seeds_are_silent(harness: str) -> None:
    with LawTarget(sampled=True) as target:
        for path in sorted((CORPUS / harness).glob("*.hvp")):
            assert target.run(parse(path.read_text(), target.catalogue)).findings == (), path
        assert sum(target.pairs.values()) > 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("grants_for_one_only", "grant 0x2, 0x0: rights 1 in one run, 3 in another in which dom1 and dom2"),
        ("arguments_of_last_entry", "console 0x1: byte 0x2 is 0x41 in one run, 0x43 in another in which the guest"),
        ("pins_left_on_unmap", "the call can be undone in one run, BUSY, result 0x0 of grant.revoke in another with"),
        ("step_repeated_at_the_border", "OK, result 0x2 in one run, the host stops in another in which long calls are"),
    ],
)
def test_the_message_names_what_parted(name: str, words: str) -> None:
    bug = fault(name)
    with LawTarget(bug) as target:
        finding = target.run(parse(bug.trigger, target.catalogue)).findings[0]
    assert words in finding.message


def test_a_byte_of_a_page_is_named_with_the_op_after_which_it_differs() -> None:
    bug = fault("outcome_of_neighbour")
    text = "# hvp 1\nworld pair\ncpuid(dom1, leaf=0)\n" + bug.trigger.split("pair\n")[1] + "cpuid(dom2, leaf=0)\n"
    with LawTarget(bug, laws=[BY_NAME["multicall"]]) as target:
        finding = target.run(parse(text, target.catalogue)).findings[0]
    assert (finding.operation, finding.op) == ("sched.yield", 2)


def test_the_sample_is_one_change_that_the_program_decides() -> None:
    with LawTarget(sampled=True) as target:
        seen = set()
        for count in range(1, 40):
            program = parse(f"# hvp 1\nworld pair\nmemory.populate(dom1, first=0x200, count={count}, order=0)\n",
                            target.catalogue)  # fmt: skip
            before = dict(target.pairs)
            for _ in range(2):
                target.run(program)
            law = [name for name in target.pairs if target.pairs[name] != before[name]]
            assert [target.pairs[name] - before[name] for name in law] == [2]
            seen.update(law)
        assert seen == BY_NAME.keys() - {"multicall"}


def test_audited_runs_try_a_law_and_others_do_not() -> None:
    bug = fault("slow_console_of_one")
    with SampledTarget(bug) as target:
        found = set()
        for length in range(1, 30):
            program = parse(bug.trigger + "pause(dom1)\n" * length, target.catalogue)
            assert target.run(program, audit=False).findings == ()
            found.update(finding.identity for finding in target.run(program).findings)
    assert found == set(bug.findings)


def test_a_finding_is_replayed_and_minimised_by_its_law() -> None:
    bug = fault("pool_set_aside")
    text = "# hvp 1\nworld reserved\ncpuid(dom1, leaf=0)\nload(dom2, gva=DIRECT+0x40000, size=8)\n"
    with target_that_shows(bug.findings[0], bug) as target:
        assert isinstance(target, LawTarget)
        program = parse(text + bug.trigger.split("reserved\n")[1], target.catalogue)
        small = minimise(program, bug.findings[0], target, seconds=30)
        assert len(small.ops) == 3
        assert target.run(small).findings[0].identity == bug.findings[0]
    with SampledTarget(bug, shown=bug.findings[0]) as replay:
        assert bug.findings[0] in [finding.identity for finding in replay.run(small).findings]
        assert "specification" in [finding.oracle for finding in replay.run(small).findings]


def test_a_replay_without_a_record_tries_all_laws() -> None:
    bug = fault("given_up_after_many")
    with SampledTarget(bug, shown="") as replay:
        assert bug.findings[0] in [
            finding.identity for finding in replay.run(parse(bug.trigger, replay.catalogue)).findings
        ]


def test_a_host_that_dies_or_hangs_is_a_finding() -> None:
    def dies(hv: object) -> None:
        raise RuntimeError("not now")

    bug = Bug("dies", "hvfuzz.hypervisor.core.dispatch:preempt", dies)
    text = "# hvp 1\nworld pair\nmemory.decrease(dom1, first=0x40, count=2)\n"
    with LawTarget(bug) as target:
        assert [finding.identity for finding in target.run(parse(text, target.catalogue)).findings] == [
            "laws/preemption/memory.decrease"
        ]

    def hangs(hv: object) -> None:
        while True:
            pass

    with LawTarget(Bug("hangs", "hvfuzz.hypervisor.core.dispatch:preempt", hangs), hang_seconds=1) as target:
        (finding,) = target.run(parse(text, target.catalogue)).findings
        assert finding.identity == "laws/preemption/memory.decrease"
        assert "did not finish" in finding.message


def test_laws_have_distinct_names_and_say_what_they_demand() -> None:
    assert len(BY_NAME) == len(LAWS)
    assert all(law.demands for law in LAWS)
