"""Every reproducer in crashes/ shows its finding with its bug planted, and none without."""

from pathlib import Path

import pytest

from hvfuzz.bugs import known_bugs, recorded_bug
from hvfuzz.campaign.findings import PROGRAM, RECORD, FindingStore, bucket_name, load_record
from hvfuzz.campaign.program_files import read_program
from hvfuzz.explain.telling.program_header import bug_in_header
from hvfuzz.targets.pairs.sampled_target import SampledTarget, target_that_shows

CRASHES = Path(__file__).parents[2] / "crashes"
FOLDERS = sorted(path.parent for path in CRASHES.glob(f"*/{PROGRAM}"))


def oracle(identity: str) -> str:
    """The oracle in an identity."""
    return identity.split("/", maxsplit=1)[0]


@pytest.mark.parametrize("folder", FOLDERS, ids=[folder.name for folder in FOLDERS])
def test_a_crash_is_still_found(folder: Path) -> None:
    record = load_record(folder)
    assert folder.name == bucket_name(record.identity, record.bug)
    assert record.bug is not None, "a finding on the clean hypervisor is to be mended, and becomes a seed"
    bug = recorded_bug(record.bug, folder / RECORD)
    with target_that_shows(record.identity, bug) as target:
        program = read_program(folder / PROGRAM, target.catalogue)
        found = {finding.identity for finding in target.run(program).findings}
    assert record.identity in found
    # A smaller program may break other rules than the trigger does, but only rules of the same oracles.
    assert {oracle(identity) for identity in found} <= {oracle(identity) for identity in bug.findings}
    with SampledTarget() as target:
        assert target.run(program).findings == ()


@pytest.mark.parametrize("folder", FOLDERS, ids=[folder.name for folder in FOLDERS])
def test_a_record_says_what_a_replay_says(folder: Path, request: pytest.FixtureRequest) -> None:
    """Otherwise `pytest --update-golden` makes it anew. The program alone names its bug, too."""
    record = load_record(folder)
    assert record.bug is not None
    with target_that_shows(record.identity, recorded_bug(record.bug, folder / RECORD)) as target:
        program = read_program(folder / PROGRAM, target.catalogue)
        findings = target.run(program).findings
    message = next(finding.message for finding in findings if finding.identity == record.identity)
    if request.config.getoption("--update-golden"):
        made = record._replace(message=message, ops=len(program.ops))
        FindingStore(CRASHES).save(made, program, replace=True)
        record = load_record(folder)
    assert (record.message, record.ops) == (message, len(program.ops)), "make it anew: pytest --update-golden"
    assert bug_in_header(folder / PROGRAM) == record.bug
    head = (folder / PROGRAM).read_text().splitlines()[1:3]
    assert head == [f"# finding: {record.identity}", f"# message: {message}"]


def test_each_bug_has_a_crash() -> None:
    assert {load_record(folder).bug for folder in FOLDERS} == set(known_bugs())
