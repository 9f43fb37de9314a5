"""Which changes owe a flush, which flush covers them, and when it is due: by the manuals, whatever is cached."""

from __future__ import annotations

import pytest

from hvfuzz.oracles.host.hooked_hardware import EVERYTHING
from hvfuzz.oracles.host.live_tables import EntryChange, Translations
from hvfuzz.oracles.host.owed_flushes import OwedFlushes
from hvfuzz.oracles.shadow.changes import DMA, LARGE, Context, Table

DEVICES = 1 | DMA
LEAF = 0x40 << 12 | 0x30
TABLE = 0x70
BDF = 0x20


class Rig:
    """Owed flushes, and what was reported."""

    def __init__(self) -> None:
        self.reports: list[str] = []
        self.owed = OwedFlushes(lambda rule, message: self.reports.append(rule))

    def leaf(self, old: int, new: int, *, space: int = 1, frame: int = 0x40) -> None:
        """The leaf of page 5 of a space is written; `old` and `new` are rights, `frame` is the new frame."""
        before: Translations = {5: (0x40, old)} if old else {}
        after: Translations = {5: (frame, new)} if new else {}
        entry, now = LEAF | old if old else 0, frame << 12 | 0x30 | new if new else 0
        self.owed.entry_changed(EntryChange(0, Table(space, 1, 0), 5, entry, now, before, after, [], []))

    def unlink(self, space: int = 1) -> None:
        """The empty table of the first 512 pages is unlinked."""
        below = (TABLE, Table(space, 1, 0))
        rights = 3 if space & DMA else 7
        self.owed.entry_changed(EntryChange(0, Table(space, 2, 0), 0, TABLE << 12 | rights, 0, {}, {}, [below], []))

    def split(self) -> None:
        """A large leaf becomes a table of 512 small ones that map the same."""
        pages = {page: (0x400 + page, 7) for page in range(512)}
        below = (TABLE, Table(1, 1, 0))
        large = 0x400 << 12 | LARGE | 0x37
        self.owed.entry_changed(
            EntryChange(0, Table(1, 2, 0), 0, large, TABLE << 12 | 7, pages, dict(pages), [], [below])
        )

    @property
    def due(self) -> list[str]:
        """What is reported if everything is due now."""
        self.owed.due("the call ended")
        return self.reports


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.mark.parametrize("space", [1, DEVICES])
@pytest.mark.parametrize(("old", "new", "owes"), [(3, 0, 1), (3, 1, 1), (3, 3, 0), (1, 3, 0), (0, 3, 0)])
def test_what_owes_a_flush(rig: Rig, space: int, old: int, new: int, owes: int) -> None:
    rig.leaf(old, new, space=space)
    assert rig.due == ["unflushed"] * owes


def test_another_frame_owes_one(rig: Rig) -> None:
    rig.leaf(3, 3, frame=0x41)
    assert rig.due == ["unflushed"]


def test_another_size_owes_one(rig: Rig) -> None:
    rig.split()
    assert rig.due == ["unflushed"]


def test_malformed_entries_owe_none(rig: Rig) -> None:
    rig.leaf(2, 0)  # It allows writes but no reads: no translation is cached (SDM Vol. 3C, 29.4.2).
    assert rig.due == []


@pytest.mark.parametrize(
    ("space", "page", "covers"),
    [
        (EVERYTHING, EVERYTHING, True),
        (DEVICES, EVERYTHING, True),
        (DEVICES, 5, True),
        (DEVICES, 6, False),
        (1, 5, False),
    ],
)
def test_which_flush_covers_a_page(rig: Rig, space: int, page: int, covers: bool) -> None:
    rig.leaf(3, 1, space=DEVICES)
    rig.owed.flush(space, page)
    assert rig.due == ([] if covers else ["unflushed"])


@pytest.mark.parametrize(("page", "covers"), [(0, True), (511, True), (512, False)])
def test_any_page_below_a_table_covers_it(rig: Rig, page: int, covers: bool) -> None:
    rig.unlink(DEVICES)
    rig.owed.flush(DEVICES, page)
    assert rig.due == ([] if covers else ["unflushed"])


def test_one_flush_serves_many_writes(rig: Rig) -> None:
    rig.split()
    rig.leaf(3, 1)
    rig.unlink()
    rig.owed.flush(1, EVERYTHING)
    assert rig.due == []


def test_a_flush_before_the_write_is_early(rig: Rig) -> None:
    rig.owed.flush(1, EVERYTHING)
    rig.leaf(3, 1)
    assert rig.due == ["order"]


def test_a_flush_of_something_else_is_not(rig: Rig) -> None:
    rig.unlink()
    rig.owed.flush(1, EVERYTHING)
    rig.leaf(3, 1)
    assert rig.due == ["unflushed"]


@pytest.mark.parametrize(("hfn", "due"), [(0x40, True), (0x41, False)])
def test_it_is_due_before_the_frame_is_reused(rig: Rig, hfn: int, due: bool) -> None:
    rig.leaf(3, 0)
    rig.owed.due_for_frame(hfn, "was scrubbed")
    assert rig.reports == (["unflushed"] if due else [])
    rig.owed.flush(1, EVERYTHING)
    assert rig.due == (["unflushed"] if due else [])  # It is reported once.


def test_it_is_due_before_the_table_is_written(rig: Rig) -> None:
    rig.unlink()
    rig.owed.due_for_frame(TABLE, "was written")
    assert rig.reports == ["unflushed"]


def test_a_flush_of_a_part_is_not_early_and_leaves_the_rest(rig: Rig) -> None:
    below = (TABLE, Table(DEVICES, 1, 0))
    pages: Translations = {5: (0x40, 3), 6: (0x41, 3)}
    link = TABLE << 12 | 3
    rig.owed.entry_changed(EntryChange(0, Table(DEVICES, 2, 0), 0, link, 0, pages, {}, [below], []))
    rig.owed.flush(DEVICES, 5)
    rig.leaf(3, 0, space=DEVICES)
    rig.owed.flush(DEVICES, 5)
    assert rig.due == ["unflushed"]  # Page 6.


def test_a_flush_for_a_context_entry_is_not_early(rig: Rig) -> None:
    rig.owed.context_changed(BDF, context(2), None)
    rig.owed.flush_context(BDF, None, 0)
    rig.owed.flush(DEVICES, EVERYTHING)
    rig.leaf(3, 0, space=DEVICES)
    assert rig.due == ["unflushed"]


# Context entries.


def context(did: int) -> Context:
    """A context entry with this domain id."""
    return Context(0x62000, did, 1, 1)


@pytest.mark.parametrize(
    ("flushes", "covers"),
    [
        ((("context", BDF, None, 0), ("iotlb", DEVICES, EVERYTHING)), True),
        ((("context", None, None, 0), ("iotlb", EVERYTHING, EVERYTHING)), True),
        ((("context", None, 2, 0), ("iotlb", DEVICES, EVERYTHING)), True),
        ((("context", BDF | 1, None, 1), ("iotlb", DEVICES, EVERYTHING)), True),
        ((("context", BDF | 1, None, 0), ("iotlb", DEVICES, EVERYTHING)), False),
        ((("context", None, 3, 0), ("iotlb", DEVICES, EVERYTHING)), False),
        ((("context", BDF, None, 0), ("iotlb", 2 | DMA, EVERYTHING)), False),
        ((("context", BDF, None, 0), ("iotlb", DEVICES, 5)), False),
        ((("iotlb", DEVICES, EVERYTHING), ("context", BDF, None, 0)), False),
        ((("context", BDF, None, 0),), False),
        ((), False),
    ],
)
def test_which_flushes_cover_a_context_entry(rig: Rig, flushes: tuple[tuple[object, ...], ...], covers: bool) -> None:
    rig.owed.context_changed(BDF, context(2), None)
    for kind, *arguments in flushes:
        flush = rig.owed.flush_context if kind == "context" else rig.owed.flush
        flush(*arguments)  # type: ignore[arg-type]
    assert rig.due == ([] if covers else ["unflushed"])


def test_a_new_context_entry_owes_none(rig: Rig) -> None:
    rig.owed.context_changed(BDF, None, context(2))
    assert rig.due == []


def test_a_context_flush_is_due_before_the_device_is_reset_or_given_away(rig: Rig) -> None:
    rig.owed.context_changed(BDF, context(2), None)
    rig.owed.due_for_device(BDF, "the device was reset")
    assert rig.reports == ["unflushed"]
    rig.owed.context_changed(BDF, context(2), None)
    rig.owed.context_changed(BDF, None, context(3))
    assert rig.due == ["unflushed"] * 2
