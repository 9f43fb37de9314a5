"""The seed corpus: which files are read, what each program adds, and which can be pruned."""

from collections.abc import Callable
from pathlib import Path

import pytest

from hvfuzz.campaign.program_files import ProgramFileError
from hvfuzz.campaign.seed_corpus import Entry, add, cover, measure, read_entries, seed_files
from hvfuzz.guest.format.binary import encode
from hvfuzz.guest.format.text import parse
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.guest.program.program import Program
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

CATALOGUE = catalogue(ABI)


def entry(name: str, *features: int, ops: int = 1) -> Entry:
    """An entry with these features."""
    program = parse("# hvp 1\nworld pair\n" + "pause(dom1)\n" * ops, CATALOGUE)
    return Entry(Path(name), program, frozenset(features))


def names(entries: list[Entry]) -> list[str]:
    """File names of entries."""
    return [each.path.name for each in entries]


def test_seeds_come_by_name_without_hidden_files_and_folders(tmp_path: Path) -> None:
    for name in ("b.hvp", "a.hvp", ".hidden", "folder/c.hvp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert seed_files([tmp_path]) == [tmp_path / "a.hvp", tmp_path / "b.hvp"]
    assert seed_files([tmp_path / "b.hvp"]) == [tmp_path / "b.hvp"]


def test_what_adds_nothing_is_dropped() -> None:
    entries = [entry("a", 1), entry("b", 1, 2), entry("c", 3), entry("d", 2, 3)]
    kept, dropped = cover(entries)
    assert (names(kept), names(dropped)) == (["b", "c"], ["a", "d"])


def test_of_equals_the_shorter_stays() -> None:
    kept, dropped = cover([entry("long", 1, 2, ops=3), entry("short", 1, 2)])
    assert (names(kept), names(dropped)) == (["short"], ["long"])


def test_together_the_kept_have_all_features() -> None:
    entries = [entry(f"{number}", *(number * step % 41 for step in range(1, 8))) for number in range(40)]
    kept, dropped = cover(entries)
    assert frozenset().union(*(each.features for each in kept)) == frozenset().union(
        *(each.features for each in entries)
    )
    assert len(kept) + len(dropped) == 40
    assert len(kept) < 20


def test_measuring_gives_each_program_its_features(
    tmp_path: Path, text: Callable[..., str], target_of: Callable[..., EmulatedTarget]
) -> None:
    (tmp_path / "a.hvp").write_text(text("sched.yield(dom1)"))
    (tmp_path / "b.hvp").write_text(text("sched.yield(dom1)", "sched.kick(dom1, vcpu=9)"))
    one, two = measure(read_entries([tmp_path], CATALOGUE), target_of(None))
    assert one.features < two.features


@pytest.mark.parametrize("form", ["bytes", "text"])
def test_what_is_added_is_text(form: str, tmp_path: Path, text: Callable[..., str]) -> None:
    source = tmp_path / "found"
    words = text("pause(dom1)  # a comment stays")
    program: Program = parse(words, CATALOGUE)
    source.write_bytes(words.encode() if form == "text" else encode(program, CATALOGUE))
    path = add(source, tmp_path / "corpus", CATALOGUE)
    assert path == tmp_path / "corpus" / "found.hvp"
    assert parse(path.read_text(), CATALOGUE) == program
    assert ("a comment stays" in path.read_text()) == (form == "text")


def test_adding_never_overwrites_another_program(tmp_path: Path, text: Callable[..., str]) -> None:
    source = tmp_path / "found.hvp"
    source.write_text(text("pause(dom1)"))
    path = add(source, tmp_path / "corpus", CATALOGUE)
    assert add(source, tmp_path / "corpus", CATALOGUE) == path, "the same program again is no error"
    source.write_text(text("pause(dom2)"))
    with pytest.raises(ProgramFileError, match="a different program of this name"):
        add(source, tmp_path / "corpus", CATALOGUE)
