"""The planted bugs: each trigger gives its findings on its own faulty build, and none on any other."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvfuzz.abi.limits import BATCH
from hvfuzz.abi.status import Status
from hvfuzz.bugs import Bug, BugError, find_bug, known_bugs, planted
from hvfuzz.campaign.seed_corpus import read_entries
from hvfuzz.guest.format.text import parse, render
from hvfuzz.guest.program.program import Program
from hvfuzz.hypervisor.hypercalls import sched
from hvfuzz.oracles.framework.all_oracles import NAMES
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget
from hvfuzz.targets.target import Run

ROOT = Path(__file__).parents[2]
BUGS = known_bugs()
WITHOUT_BUG = {"audit"}
"""It judges the other oracles instead of the hypervisor, by comparing them with a full recomputation."""


ALSO = {("xsa-78", "cve-2023-4969"): ("stale/unflushed/device.deassign",)}
"""(build, trigger of another bug) -> what the trigger shows of the build: it removes a DMA mapping, too."""


def findings(trigger: Bug, build: Bug | None, oracles: frozenset[str] | None = None) -> list[str]:
    """The identities that the trigger of bug `trigger` gives on `build`."""
    with EmulatedTarget(build, oracles=oracles) as target:
        return [finding.identity for finding in target.run(parse(trigger.trigger, target.catalogue)).findings]


@pytest.fixture(scope="module", params=[None, *BUGS], ids=["clean", *BUGS])
def build(request: pytest.FixtureRequest) -> Iterator[tuple[str | None, EmulatedTarget]]:
    """A target for each build."""
    name = request.param
    with EmulatedTarget(None if name is None else BUGS[name]) as target:
        yield name, target


@pytest.mark.parametrize("trigger", BUGS)
def test_a_trigger_raises_its_findings_on_its_own_build_only(
    build: tuple[str | None, EmulatedTarget], trigger: str
) -> None:
    name, target = build
    found = [finding.identity for finding in target.run(parse(BUGS[trigger].trigger, target.catalogue)).findings]
    expected = BUGS[trigger].findings if trigger == name else ALSO.get((str(name), trigger), ())
    assert sorted(found) == sorted(expected)


def results(run: Run) -> list[tuple[int, ...]]:
    """What the guests of a run observe, without the time it took: that differs in a faulty build."""
    return [(each.op, each.code, each.how, each.status, each.result) for each in run.trace.outcomes]


@pytest.fixture(scope="module")
def seeds() -> list[tuple[Program, list[tuple[int, ...]]]]:
    """The programs of the corpus, with their results on the clean hypervisor."""
    with EmulatedTarget() as target:
        entries = read_entries(sorted((ROOT / "corpus").iterdir()), target.catalogue)
        return [(entry.program, results(target.run(entry.program, audit=False))) for entry in entries]


def test_a_bug_is_one_difference_and_no_other(
    build: tuple[str | None, EmulatedTarget], seeds: list[tuple[Program, list[tuple[int, ...]]]]
) -> None:
    """If no oracle reports a finding, guests cannot distinguish the faulty build from the clean one."""
    quiet = 0
    for program, expected in seeds:
        run = build[1].run(program, audit=False)
        if not run.findings:
            quiet += 1
            assert results(run) == expected, render(program)
    assert quiet > len(seeds) / 2


RING = "device.dma_batch(dom1, device=0, ring={ring})"
LAST_WORD = "store(dom1, gva=DIRECT+0xffff8, size=8, value=1)\n"


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (RING.format(ring="0x10"), Status.FAULT),
        (RING.format(ring="[0]"), Status.INVALID),
        (RING.format(ring=f"[{BATCH + 1}]"), Status.INVALID),
        (LAST_WORD + RING.format(ring="DIRECT+0xffff8"), Status.FAULT),
    ],
    ids=["unreadable", "no request", "too many", "at the end of memory"],
)
def test_a_bad_ring_is_refused_by_the_build_of_xsa_155_too(lines: str, status: Status) -> None:
    for build in (None, BUGS["xsa-155"]):
        with EmulatedTarget(build) as target:
            outcomes = target.run(parse(f"# hvp 1\nworld pair\n{lines}\n", target.catalogue)).trace.outcomes
        assert outcomes[-1].status == status


@pytest.mark.parametrize("bug", BUGS.values(), ids=list(BUGS))
def test_the_named_oracle_alone_is_enough(bug: Bug) -> None:
    assert bug.findings[0] in findings(bug, bug, frozenset({bug.oracle}))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITHOUT_BUG])
def test_every_oracle_has_a_bug_that_is_its_own(name: str) -> None:
    mine = [bug for bug in BUGS.values() if bug.oracle == name]
    assert mine, f"no planted bug is there for the oracle {name}"
    assert all(bug.findings[0] not in findings(bug, bug, frozenset(NAMES) - {name}) for bug in mine)


@pytest.mark.parametrize("bug", BUGS.values(), ids=list(BUGS))
def test_a_bug_says_what_it_is(bug: Bug) -> None:
    assert 1 <= bug.difficulty <= 5
    assert "Cause:" in bug.story
    assert bug.replacement.__doc__


def test_planting_is_undone() -> None:
    original = sched.polled_port
    with planted(find_bug("xsa-221")):
        assert sched.polled_port is not original
    assert sched.polled_port is original


OWN = '''"""A user's own bug."""
from hvfuzz.bugs import Bug

def nothing_is_pending(domain):
    """Report no pending events."""
    return {result}

BUG = Bug(name="mine", advisory="none", title="events are lost", replaces="{replaces}", replacement=nothing_is_pending,
          findings=("specification/status/sched.block",), difficulty=1, trigger="", story="Cause: haste.")
'''


def own_bug(folder: Path, **changes: str) -> str:
    """Write a bug file; returns its path."""
    given = {"replaces": "hvfuzz.hypervisor.ipc.event_channels:any_pending", "result": "False"} | changes
    path = folder / "mine.py"
    path.write_text(OWN.format(**given))
    return str(path)


def test_a_bug_can_come_from_a_file(tmp_path: Path) -> None:
    bug = find_bug(own_bug(tmp_path))
    text = (
        "# hvp 1\nworld pair\nr0 = event.alloc(dom1, remote=dom1)\nr1 = event.bind(dom1, remote=dom1, port=r0)\n"
        "event.send(dom1, port=r0)\nsched.block(dom1)\n"
    )
    for build, expected in ((bug, list(bug.findings)), (None, [])):
        with EmulatedTarget(build) as target:
            found = [finding.identity for finding in target.run(parse(text, target.catalogue)).findings]
        assert found == expected


def test_a_bug_file_can_import_its_neighbours(tmp_path: Path) -> None:
    own_bug(tmp_path)
    (tmp_path / "other.py").write_text(
        "from dataclasses import replace\nimport mine\nBUG = replace(mine.BUG, name='other')\n"
    )
    before = list(sys.path)
    assert find_bug(str(tmp_path / "other.py")).name == "other"
    assert sys.path == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replaces": "hvfuzz.hypervisor.ipc.event_channels:all_pending"}, "defines no 'all_pending'"),
        ({"replaces": "hvfuzz.hypervisor.harbours:any_pending"}, "no module"),
        ({"replaces": "any_pending"}, "expected 'module:"),
    ],
)
def test_a_bug_that_replaces_nothing_is_refused(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    bug = find_bug(own_bug(tmp_path, **changes))
    with pytest.raises(BugError, match=message), planted(bug):
        pass


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def broken(:", "SyntaxError"),
        ("import no_such_thing", "imports module 'no_such_thing', which does not exist"),
        ("BUG = 3", "must define BUG"),
    ],
)
def test_a_file_that_defines_no_bug_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(BugError, match=message):
        find_bug(str(path))


def test_an_unknown_bug_has_a_neighbour() -> None:
    with pytest.raises(BugError, match="did you mean 'pkvm-09cce60bddd'"):
        find_bug("pkvm-09cce60")
    with pytest.raises(BugError, match="no such file"):
        find_bug("nowhere.py")
