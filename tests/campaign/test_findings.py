"""The findings store: one bucket per identity and bug, the best program kept, damaged files ignored."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hvfuzz.campaign.findings import (
    PROGRAM,
    RECORD,
    FindingFileError,
    FindingStore,
    Record,
    bucket_name,
    load_record,
    record_beside,
)
from hvfuzz.campaign.program_files import read_program
from hvfuzz.guest.format.text import parse
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.guest.program.program import Program
from hvfuzz.hypervisor.hypercalls import ABI

CATALOGUE = catalogue(ABI)
IDENTITY = "stale/iotlb/device.dma_unmap"


def program(ops: int) -> Program:
    """A program of `ops` ops."""
    return parse("# hvp 1\nworld pair\n" + "pause(dom1)\n" * ops, CATALOGUE)


def record(ops: int, *, confirmed: bool = False, bug: str | None = None, runs: int = 7) -> Record:
    """A record for such a program."""
    return Record(IDENTITY, "a message", bug, runs, 1.5, confirmed, ops)


def kept(path: Path) -> int:
    """Number of ops of the program at `path`."""
    return len(read_program(path, CATALOGUE).ops)


def test_a_bucket_has_the_program_and_its_record(tmp_path: Path) -> None:
    path = FindingStore(tmp_path).save(record(3), program(3))
    assert path == tmp_path / "stale--iotlb--device.dma_unmap" / PROGRAM
    assert kept(path) == 3
    assert load_record(path.parent) == record(3)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a b/c\x00d", "x" * 20])
def test_bucket_names_are_plain(name: str) -> None:
    made = bucket_name(name, None)
    assert "/" not in made
    assert made.replace("-", "").replace(".", "").isalnum()


def test_a_planted_bug_never_takes_the_place_of_a_real_finding(tmp_path: Path) -> None:
    store = FindingStore(tmp_path)
    real = store.save(record(5), program(5))
    planted = store.save(record(1, confirmed=True, bug="xsa-78"), program(1))
    own = store.save(record(1, confirmed=True, bug="/home/me/mine.py"), program(1))
    assert len({real, planted, own}) == 3
    assert (planted.parent.name, own.parent.name) == (f"{real.parent.name}@xsa-78", f"{real.parent.name}@mine")
    assert kept(real) == 5
    records = [record_beside(path) for path in (real, planted, own)]
    assert [record and record.bug for record in records] == [None, "xsa-78", "/home/me/mine.py"]
    assert record_beside(tmp_path / "loose.hvp") is None


@pytest.mark.parametrize(
    ("first", "second", "wins"),
    [
        (record(5), record(3), 3),
        (record(3), record(5), 3),
        (record(5), record(9, confirmed=True), 9),
        (record(9, confirmed=True), record(5), 9),
        (record(9, confirmed=True), record(5, confirmed=True), 5),
    ],
)
def test_the_better_program_is_kept(first: Record, second: Record, wins: int, tmp_path: Path) -> None:
    store = FindingStore(tmp_path)
    store.save(first, program(first.ops))
    path = store.save(second._replace(runs=999), program(second.ops))
    assert kept(path) == load_record(path.parent).ops == wins
    assert load_record(path.parent).runs == 7, "when it was seen first stays"


def test_what_does_not_show_the_finding_any_more_is_replaced(tmp_path: Path) -> None:
    store = FindingStore(tmp_path)
    store.save(record(1, confirmed=True), program(1))
    assert kept(store.save(record(6), program(6), replace=True)) == 6


DAMAGED = {
    "empty": "",
    "cut": "{",
    "list": "[]",
    "wrong type": '{"identity": 3}',
    "fields missing": '{"identity": "x"}',
    "deep lists": "[" * 100_000,
    "deep objects": '{"identity":' * 100_000,
    "huge": " " * (2 << 20),
    "long number": '{"runs": ' + "9" * 100_000 + "}",
    "endless": json.dumps(record(2)._asdict() | {"seconds": float("inf")}),
    "not UTF-8": "\udcff",
    "NUL": "\0",
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=list(DAMAGED))
def test_a_damaged_record_is_told_and_written_anew(damage: str, tmp_path: Path) -> None:
    store = FindingStore(tmp_path)
    path = store.save(record(2), program(2))
    (path.parent / RECORD).write_text(damage, errors="surrogateescape")
    with pytest.raises(FindingFileError, match=str(path.parent / RECORD)) as error:
        load_record(path.parent)
    assert len(str(error.value)) < 500
    store.save(record(4), program(4))
    assert load_record(path.parent).ops == kept(path) == 4


def test_a_record_of_a_later_version_and_of_another_editor_is_read(tmp_path: Path) -> None:
    path = FindingStore(tmp_path).save(record(2), program(2))
    fields = json.loads((path.parent / RECORD).read_text())
    (path.parent / RECORD).write_text(json.dumps(fields | {"colour": "red"}), encoding="utf-8-sig")
    assert load_record(path.parent) == record(2)


def test_program_and_record_of_one_bucket_belong_together(tmp_path: Path, text: Callable[..., str]) -> None:
    store = FindingStore(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda ops: store.save(record(ops), program(ops)), range(30, 0, -1)))
    folder = tmp_path / bucket_name(IDENTITY, None)
    assert load_record(folder).ops == kept(folder / PROGRAM) == 1
    assert sorted(path.name for path in folder.iterdir()) == [RECORD, PROGRAM]
