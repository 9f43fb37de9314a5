"""The seed corpus: which files are read, what each program adds, and which can be pruned."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from hvfuzz.campaign.program_files import ProgramFileError
from hvfuzz.campaign.seed_corpus import (
    Entry,
    add,
    cover,
    measure,
    passed_over,
    read_entries,
    remove_damaged_units,
    seed_bytes,
    seed_files,
)
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


@pytest.fixture
def mixed(tmp_path: Path, text: Callable[..., str]) -> Path:
    """A folder with one program, and files that are none."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "good.hvp").write_text(text("pause(dom1)"))
    (folder / "empty").touch()
    (folder / "other.hvp").touch()
    (folder / "huge").write_bytes(bytes((1 << 20) + 1))
    (folder / "typo.hvp").write_text(text("pouse(dom1)"))
    (folder / "gone").symlink_to("nowhere")
    return folder


@pytest.mark.parametrize("read", [seed_bytes, read_entries])
def test_files_that_are_no_programs_are_passed_over_and_named(read: Callable[..., list[object]], mixed: Path) -> None:
    passed: list[ProgramFileError] = []
    assert len(read([mixed], CATALOGUE, passed)) == 1
    assert [error.path.name for error in passed] == ["empty", "huge", "other.hvp", "typo.hvp"]
    notice = passed_over(passed)
    assert notice is not None
    assert notice.startswith("passed over 4 files in folders of programs: ")
    assert f"the file is empty: {mixed / 'empty'}, {mixed / 'other.hvp'}; " in notice
    assert "\n" not in notice
    assert passed_over([]) is None


@pytest.mark.parametrize("read", [seed_bytes, read_entries])
def test_a_file_that_the_user_names_is_not_passed_over(read: Callable[..., list[object]], mixed: Path) -> None:
    with pytest.raises(ProgramFileError, match=r"typo\.hvp: line 3"):
        read([mixed / "typo.hvp"], CATALOGUE, [])
    with pytest.raises(ProgramFileError, match="empty: the file is empty"):
        read([mixed], CATALOGUE)


def test_units_that_were_not_written_whole_are_deleted(tmp_path: Path) -> None:
    def unit(data: bytes, written: int) -> Path:
        path = tmp_path / hashlib.sha1(data, usedforsecurity=False).hexdigest()
        path.write_bytes(data[:written])
        return path

    whole, cut, empty = unit(b"whole", 5), unit(b"cut", 2), unit(b"empty", 0)
    other = tmp_path / "seed.hvp"
    other.touch()
    assert remove_damaged_units(tmp_path) == 2
    assert (whole.exists(), cut.exists(), empty.exists(), other.exists()) == (True, False, False, True)
    assert remove_damaged_units(tmp_path) == 0
    assert remove_damaged_units(tmp_path / "nowhere") == 0


def test_a_unit_that_is_being_written_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / hashlib.sha1(b"unit", usedforsecurity=False).hexdigest()
    path.touch()
    monkeypatch.setattr("hvfuzz.campaign.seed_corpus.time.sleep", lambda seconds: path.write_bytes(b"unit"))
    assert remove_damaged_units(tmp_path) == 0
    assert path.read_bytes() == b"unit"


def test_a_notice_of_many_files_stays_short() -> None:
    notice = passed_over([ProgramFileError(Path(f"seeds/{number}"), "the file is empty") for number in range(3000)])
    assert notice is not None
    assert notice.startswith("passed over 3000 files in folders of programs: the file is empty: seeds/0, seeds/1, ")
    assert notice.endswith(", seeds/19 and 2,980 more")
