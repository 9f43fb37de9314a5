"""The files of judgements and of survivors, and the score made of both."""

from pathlib import Path

import pytest

from hvfuzz.campaign.bench.mutants.generation import MutantError, all_mutants
from hvfuzz.campaign.bench.mutants.judging import INTERNAL, KILLED, SURVIVED, UNSUPPORTED, Judgement
from hvfuzz.campaign.bench.mutants.mutant import Mutant
from hvfuzz.campaign.bench.mutants.results_file import ResultsFile, read_judgements, still_to_judge
from hvfuzz.campaign.bench.mutants.score import ALL, CRITICAL_FILES, Score, scores
from hvfuzz.campaign.bench.mutants.survivors import (
    EQUIVALENT,
    HOLE,
    OPEN,
    Survivor,
    edit_of,
    read_survivor,
    read_survivors,
    record_survivors,
    survivor,
)


@pytest.fixture(scope="module")
def mutants() -> list[Mutant]:
    return all_mutants(["hypervisor/ipc"])


def judgement(mutant: Mutant, verdict: str, budget: int = 10, by: str = "") -> Judgement:
    return Judgement(mutant, verdict, budget, 0, True, by, "a/b/c" if by else "")


def test_what_is_appended_is_read(tmp_path: Path, mutants: list[Mutant]) -> None:
    path = tmp_path / "results.jsonl"
    assert read_judgements(path) == []
    first, second = judgement(mutants[0], KILLED, by="corpus"), judgement(mutants[1], SURVIVED)
    ResultsFile(path).append(first)
    ResultsFile(path).append(second)
    ResultsFile(None).append(second)
    assert read_judgements(path) == [first, second]
    again = judgement(mutants[0], SURVIVED)
    ResultsFile(path).append(again)
    assert read_judgements(path) == [again, second]


def test_a_line_cut_short_is_passed_over(tmp_path: Path, mutants: list[Mutant]) -> None:
    path = tmp_path / "results.jsonl"
    ResultsFile(path).append(judgement(mutants[0], SURVIVED))
    path.write_bytes(path.read_bytes() * 2)
    path.write_bytes(path.read_bytes()[:-40])
    after = judgement(mutants[1], SURVIVED)
    ResultsFile(path).append(after)
    assert read_judgements(path) == [judgement(mutants[0], SURVIVED), after]


@pytest.mark.parametrize("line", ['{"id": 3}', "[]", '{"mutant": {"path": 3}}', '{"a": }'])
def test_another_file_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(line + "\n")
    if line == "[]":
        with pytest.raises(MutantError, match="line 1 is no judgement"):
            read_judgements(path)
        return
    with pytest.raises(MutantError, match="line 1 is no judgement"):
        read_judgements(path)


def test_a_judgement_answers_for_the_same_edit_and_as_many_programs(mutants: list[Mutant]) -> None:
    killed, survived, changed, other = mutants[:4]
    known = [
        judgement(killed, KILLED, 1, "corpus"),
        judgement(survived, SURVIVED, 10),
        judgement(changed._replace(after="other"), KILLED, 100, "corpus"),
    ]
    assert still_to_judge([killed, survived, changed, other], known, 10) == [changed, other]
    assert still_to_judge([killed, survived], known, 11) == [survived]


def test_a_survivor_is_recorded_and_read(tmp_path: Path, mutants: list[Mutant]) -> None:
    files = record_survivors(tmp_path / "folder", mutants[:3], {mutants[1].id: survivor(mutants[1])})
    assert [read_survivor(file).id for file in files] == [mutants[0].id, mutants[2].id]
    assert {each.verdict for each in read_survivors(tmp_path / "folder").values()} == {OPEN}
    for verdict, why in ((EQUIVALENT, "No one\ncan tell."), (HOLE, "The oracle is blind.")):
        record = survivor(mutants[0], verdict, why)
        files[0].write_text(record.text())
        assert read_survivor(files[0]) == record
    assert read_survivors(tmp_path / "nowhere") == {}


def test_an_edit_is_what_changes_and_where() -> None:
    assert edit_of(" a\n-b\n+c\n d") == ("-b", "+c")
    assert edit_of(" a\n+return\n b\n c") == ("+return", " b")
    assert edit_of(" a\n+return") == ("+return",)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("id: a\nverdict: hole\n\n-x\n", "not why"),
        ("id: a\nverdict: fine\nwhy: so\n\n-x\n", "verdict 'fine'"),
        ("verdict: open\n\n-x\n", "expected the lines"),
        ("id: a\nverdict: open\n", "expected the lines"),
    ],
)
def test_a_bad_record_is_refused(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "x.txt"
    file.write_text(text)
    with pytest.raises(MutantError, match=why):
        read_survivor(file)


def test_the_score_leaves_out_what_is_equivalent(mutants: list[Mutant]) -> None:
    grants = [each for each in mutants if each.path.endswith("grants.py")]
    ports = [each for each in mutants if each.path.endswith("event_channels.py")]
    judgements = [
        judgement(grants[0], KILLED, by="corpus"),
        judgement(grants[1], KILLED, by="fuzzing")._replace(finding="host_memory/exception:TypeError/grant.map"),
        judgement(grants[2], SURVIVED),
        judgement(grants[3], SURVIVED),
        judgement(grants[4], UNSUPPORTED),
        judgement(ports[0], INTERNAL),
        judgement(ports[1], SURVIVED)._replace(reached=False),
        judgement(ports[2], KILLED, by="corpus"),
    ]
    judged = {
        grants[2].id: Survivor(grants[2].id, EQUIVALENT, "so", ""),
        grants[3].id: Survivor(grants[3].id, HOLE, "so", ""),
    }
    rows = scores(judgements, judged)
    assert list(rows) == ["hypervisor/ipc/event_channels.py", "hypervisor/ipc/grants.py", CRITICAL_FILES, ALL]
    assert rows["hypervisor/ipc/grants.py"] == rows[CRITICAL_FILES] == Score(1, 1, 1, 1, 0, 0, 1, 1)
    assert rows["hypervisor/ipc/event_channels.py"] == Score(1, 0, 0, 1, 1, 1, 0, 0)
    assert rows[CRITICAL_FILES].share == 2 / 3
    assert rows[ALL].share == 3 / 6
    assert Score().share is None
