"""Mutants: what is generated, that ids are unique and stable, and that each edit is Python."""

import ast
from pathlib import Path

import pytest

from hvfuzz.campaign.bench.mutants.generation import (
    CRITICAL,
    MutantError,
    all_mutants,
    find_mutant,
    is_critical,
    mutants_of,
    mutated_files,
    sample,
)
from hvfuzz.campaign.bench.mutants.module_source import ModuleSource
from hvfuzz.campaign.bench.mutants.mutant import Mutant
from hvfuzz.campaign.bench.mutants.mutant_kinds import KINDS

EXAMPLE = '''\
"""A module."""
READ, WRITE = 1, 2


class Table:
    """A table."""

    def put(self, caller, target, count: int = 3):
        """Say 5."""
        if count < 4 or count > 0x10:
            raise ValueError(f"{count} is not 7")
        self.entry[count] = READ
        self.used += 1
        for each in caller, target:
            self.flush(each)
        assert self.used < 9

    def get(self, at):
        def nested(more):
            return self.read(more + 1)

        return nested(at) if at else None
'''


@pytest.fixture
def mutants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Mutant]:
    monkeypatch.setattr("hvfuzz.campaign.bench.mutants.module_source.PACKAGE", tmp_path)
    (tmp_path / "example.py").write_text(EXAMPLE)
    return {each.id: each for each in mutants_of(ModuleSource("example.py"))}


def edited(mutant: Mutant) -> str:
    return mutant.apply(EXAMPLE.encode()).decode()


@pytest.mark.parametrize(
    ("identity", "line"),
    [
        ("Table.put:drop-check:1", "if False:"),
        ("Table.put:drop-operand:1", "if False or count > 0x10:"),
        ("Table.put:drop-operand:2", "if count < 4 or False:"),
        ("Table.put:negate:1", "if (not (count < 4 or count > 0x10)):"),
        ("Table.put:off-by-one:1", "if count <= 4 or count > 0x10:"),
        ("Table.put:off-by-one:2", "if count < 5 or count > 0x10:"),
        ("Table.put:off-by-one:3", "if count < 4 or count >= 0x10:"),
        ("Table.put:off-by-one:4", "if count < 4 or count > 0x11:"),
        ("Table.put:off-by-one:5", "self.used += 2"),
        ("Table.put:swap:1", "self.entry[count] = WRITE"),
        ("Table.put:swap:2", "for each in target, target:"),
        ("Table.put:swap:3", "for each in caller, caller:"),
        ("Table.put:last-iteration:1", "for each in [*(caller, target)][:-1]:"),
        ("Table.get.nested:fetch-twice:1", "return (self.read(more + 1), self.read(more + 1))[1]"),
        ("Table.get.nested:off-by-one:1", "return self.read(more + 2)"),
        ("Table.get:negate:1", "return nested(at) if (not (at)) else None"),
    ],
)
def test_the_edit_is_the_one_that_its_kind_says(mutants: dict[str, Mutant], identity: str, line: str) -> None:
    changed = set(edited(mutants[f"example.py:{identity}"]).splitlines()) - set(EXAMPLE.splitlines())
    assert {each.strip() for each in changed} == {line}


def test_statements_are_left_out(mutants: dict[str, Mutant]) -> None:
    for identity, gone in (
        ("drop-store:1", "self.entry[count] = READ"),
        ("drop-count:1", "self.used += 1"),
        ("drop-call:1", "self.flush(each)"),
    ):
        assert gone in EXAMPLE
        assert gone not in edited(mutants[f"example.py:Table.put:{identity}"])


def test_messages_assertions_defaults_and_docstrings_stay(mutants: dict[str, Mutant]) -> None:
    assert not [each for each in mutants.values() if each.before in ("3", "5", "7", "9")]


def test_a_function_that_returns_a_value_does_not_end_early(mutants: dict[str, Mutant]) -> None:
    early = [each for each in mutants.values() if each.kind == "early-return"]
    assert {each.function for each in early} == {"Table.put"}
    # Before each statement but the docstring, which is the first, and the assertion.
    assert [edited(each).splitlines().index("        return") for each in early] == [9, 11, 12, 13]


def test_the_ids_do_not_depend_on_other_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hvfuzz.campaign.bench.mutants.module_source.PACKAGE", tmp_path)
    more = EXAMPLE.replace(
        "class Table", "def other(n):\n    if n > 1:\n        return 2\n    return 3\n\n\nclass Table"
    )
    found = []
    for text in (EXAMPLE, more):
        (tmp_path / "example.py").write_text(text)
        source = ModuleSource("example.py")
        found.append({each.id: each.diff(source.bytes) for each in mutants_of(source)})
    assert found[0].items() <= found[1].items()


def test_an_edit_needs_the_file_that_it_was_made_from(mutants: dict[str, Mutant]) -> None:
    with pytest.raises(ValueError, match="is not the file"):
        next(iter(mutants.values())).apply(b"\n" + EXAMPLE.encode())


def test_all_mutants_are_distinct_and_of_all_kinds() -> None:
    mutants = all_mutants()
    assert len({each.id for each in mutants}) == len(mutants) >= 3000
    assert {each.kind for each in mutants} == set(KINDS)
    assert len([each for each in mutants if is_critical(each.path)]) >= 2000


@pytest.mark.parametrize(
    "path", ["hypervisor/memory/stage2.py", "hypervisor/ipc/grants.py", "machine/mmu/paging_cache.py"]
)
def test_every_edit_of_a_file_is_python(path: str) -> None:
    source = ModuleSource(path)
    for mutant in mutants_of(source):
        ast.parse(mutant.apply(source.bytes))


def test_every_critical_pattern_names_files() -> None:
    for pattern in CRITICAL:
        assert mutated_files([pattern])


def test_files_are_chosen_by_name_folder_and_pattern() -> None:
    assert mutated_files(["hvfuzz/hypervisor/ipc/grants.py"]) == ["hypervisor/ipc/grants.py"]
    assert mutated_files(["hypervisor/ipc"]) == mutated_files(["hypervisor/ipc/*"])
    with pytest.raises(MutantError, match=r"did you mean 'hypervisor/ipc/grants\.py'"):
        mutated_files(["hypervisor/ipc/grant.py"])


def test_a_larger_sample_begins_with_the_smaller() -> None:
    mutants = all_mutants(["hypervisor/memory"])
    small, large = sample(mutants, 5, 3), sample(mutants, 50, 3)
    assert large[:5] == small
    assert sample(mutants, 5, 4) != small
    assert sorted(sample(mutants, None, 3)) == sorted(mutants)


def test_a_mutant_is_found_by_its_id() -> None:
    mutant = all_mutants(["hypervisor/ipc/grants.py"])[7]
    assert find_mutant(mutant.id) == mutant
    with pytest.raises(MutantError, match="did you mean"):
        find_mutant(mutant.id + "0")
