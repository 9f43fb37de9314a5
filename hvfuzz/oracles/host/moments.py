"""Judges the tables as they are between two writes: what other processors and devices could do at that very moment.

    entry   a leaf names only what its space may reach, with those rights; no entry has reserved bits set
    table   a linked page is a table page of that domain
    count   a frame has as many maps as leaves name it, and as many pins as other domains' leaves name it
    scrub   no leaf names a frame while it is scrubbed
    page    within a step, each page goes from its old translation to its new one: it has no other frame or right, and
            is not absent, in between

What is still wrong when a call ends is found by the oracles that look then, and is theirs. So a moment is reported when
it has passed. Helper of `host_writes`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from hvfuzz.hypervisor.memory.frames import COUNT_MASK, MAPS_SHIFT, PINS_SHIFT, FrameState
from hvfuzz.machine.addresses import PAGE_SHIFT, WORDS_PER_PAGE, rights_text
from hvfuzz.oracles.isolation.entitlements import OWNED_OR_SHARED, RESERVED
from hvfuzz.oracles.shadow.changes import ADDRESS, DMA, OWNER_AND_STATE, Leaf, is_link, malformation, name_of

if TYPE_CHECKING:
    from hvfuzz.oracles.host.live_tables import EntryChange, LiveTables
    from hvfuzz.oracles.scene.scene import Scene
    from hvfuzz.oracles.shadow.changes import Table

TABLE_STATE: Final = FrameState.TABLE << 8
COUNTED: Final = (*OWNED_OR_SHARED, RESERVED)
LEAF: Final = ("stale", "leaf")
Translation = tuple[int, int] | None
Told = tuple[str, str, str]
"""(oracle, rule, message)"""


class Moments:
    """The state of one machine between two writes. `report`(oracle, rule, message) takes what has passed."""

    __slots__ = ("_live", "_may_reach", "_paths", "_report", "_scene", "_wrong")

    def __init__(
        self,
        scene: Scene,
        live: LiveTables,
        may_reach: Callable[[Leaf, int], bool],
        report: Callable[[str, str, str], None],
    ) -> None:
        self._scene: Final = scene
        self._live: Final = live
        self._may_reach: Final = may_reach
        """Whether a leaf may name a frame that is not one of its domain's own."""
        self._report: Final = report
        self._wrong: dict[tuple[str, int], Told] = {}
        """(kind, word or frame or device) -> what is wrong there now."""
        self._paths: dict[tuple[int, int], list[Translation]] = {}
        """(space, page) -> its translations within this step, the one before it first."""

    def reset(self) -> None:
        """Forget everything."""
        self._wrong.clear()
        self._paths.clear()

    def call_ended(self) -> None:
        """What is still wrong has been seen by others."""
        self._wrong.clear()

    def judge(self, kind: str, place: int, wrong: str, oracle: str = "ownership", rule: str = "moment") -> None:
        """Note what is wrong at a place; if nothing is, report what was."""
        key = (kind, place)
        if wrong:
            self._wrong.setdefault(key, (oracle, rule, wrong))
        elif key in self._wrong:
            self._report(*self._wrong.pop(key))

    # Writes.

    def entry_changed(self, change: EntryChange) -> None:
        """An entry of a table was written."""
        for hfn, _ in change.unlinked:
            self._leave(hfn)
        self.judge_entry(change.word)
        for hfn, table in change.linked:
            self.judge_table(hfn, table)
            first = hfn << 9
            for word in range(first, first + WORDS_PER_PAGE):
                if word in self._live.entries:
                    self.judge_entry(word)
        if change.before == change.after:
            return
        space = change.table.space
        for page in change.before | change.after:
            old, new = change.before.get(page), change.after.get(page)
            if old != new:
                self._paths.setdefault((space, page), [old]).append(new)
                for translation in (old, new):
                    if translation is not None:
                        self.judge_count(translation[0])
                if old is not None and not self._live.naming(old[0]):
                    self.judge("scrub", old[0], "")

    def _leave(self, hfn: int) -> None:
        """A table is no longer linked: what was wrong with it, and in it, has passed."""
        self.judge("table", hfn, "")
        for kind, place in [*self._wrong]:
            if kind == "entry" and place >> 9 == hfn:
                self.judge(kind, place, "")

    def frame_changed(self, hfn: int, old: int, new: int) -> None:
        """A frame word was written."""
        live = self._live
        if (old ^ new) & OWNER_AND_STATE:
            for word in live.naming(hfn):
                self.judge_entry(word)
            table = live.tables.get(hfn)
            if table is not None:
                self.judge_table(hfn, table)
        if fewer(old, new, PINS_SHIFT) and (wrong := self._unpinned(hfn)):
            self._report(*LEAF, f"{self._scene.describe(hfn)}: {wrong}")
        elif fewer(old, new, MAPS_SHIFT):
            self.judge_count(hfn, *LEAF)
        else:
            self.judge_count(hfn)

    def scrubbed(self, hfn: int) -> None:
        """A frame is about to be scrubbed: nothing may reach it, else what is written to it afterwards stays."""
        for word in self._live.naming(hfn):
            who = name_of(self._live.tables[word >> 9].space)
            self.judge("scrub", hfn, f"{self._scene.describe(hfn)} is scrubbed while {who} can still reach it", *LEAF)
            return

    def step_changed(self) -> None:
        """A step starts or ends: look at the way that each page took."""
        for (space, page), path in self._paths.items():
            for now in path[1:-1]:
                wrong = detour(path[0], now, path[-1])
                if wrong:
                    text = f"{name_of(space)}, page {page:#x}: for a moment {wrong}"
                    self._report(
                        "ownership", "moment", f"{text}; before {words_of(path[0])}, after {words_of(path[-1])}"
                    )
        self._paths.clear()

    # What is wrong.

    def judge_entry(self, word: int) -> None:
        """The entry at a word of a table, or nothing."""
        self.judge("entry", word, self._wrong_entry(word))

    def _wrong_entry(self, word: int) -> str:
        entry, table = self._live.entries.get(word), self._live.tables.get(word >> 9)
        if entry is None or table is None:
            return ""
        page = table.page + ((word & WORDS_PER_PAGE - 1) << 9 * (table.level - 1))
        where = f"{name_of(table.space)}, page {page:#x}: for a moment it has the level {table.level} entry {entry:#x}"
        frame = (entry & ADDRESS) >> PAGE_SHIFT
        if is_link(entry, table.level):
            if self._live.tables.get(frame) != (table.space, table.level - 1, page):
                return f"{where}: {self._scene.describe(frame)} is no table there"
        elif (leaf := self._live.leaf(word)) is not None:
            for hfn in range(frame, frame + leaf.frames):
                state = self._scene.frame_word(hfn)
                if state & 0xFF == leaf.space & 0xFF and state & 0xFF00 in OWNED_OR_SHARED:
                    continue
                if not self._may_reach(leaf, hfn):
                    return f"{where}: with rights {rights_text(leaf.rights)} to {self._scene.describe(hfn)}"
        wrong = malformation(table.space, table.level, entry)
        return f"{where}: {wrong}" if wrong else ""

    def judge_table(self, hfn: int, table: Table) -> None:
        """The state of a linked page."""
        right = self._scene.frame_word(hfn) & OWNER_AND_STATE == TABLE_STATE | table.space & 0xFF
        where = f"{name_of(table.space)}, level {table.level} table for page {table.page:#x}"
        self.judge("table", hfn, "" if right else f"{where}: for a moment it is {self._scene.describe(hfn)}")

    def judge_count(self, hfn: int, oracle: str = "recount", rule: str = "uncounted") -> None:
        """The counts in a frame word: each leaf is counted before it is there, and until it is gone."""
        wrong = self._uncounted(hfn)
        self.judge("count", hfn, f"for a moment {self._scene.describe(hfn)}: {wrong}" if wrong else "", oracle, rule)

    def _uncounted(self, hfn: int) -> str:
        """What the counts of a frame lack."""
        word = self._scene.frame_word(hfn)
        if word & 0xFF00 not in COUNTED:
            return ""  # No leaf may name it at all.
        maps, names = word >> MAPS_SHIFT & COUNT_MASK, len(self._live.naming(hfn))
        return f"{names} leaves name it, {maps} are counted" if names > maps else self._unpinned(hfn)

    def _unpinned(self, hfn: int) -> str:
        """What the pins of a frame lack."""
        word = self._scene.frame_word(hfn)
        pins = word >> PINS_SHIFT & COUNT_MASK
        tables = self._live.tables
        names = [at for at in self._live.naming(hfn) if tables[at >> 9].space & ~DMA != word & 0xFF]
        if word & 0xFF00 not in OWNED_OR_SHARED or len(names) <= pins:
            return ""
        return f"{pins} pins are left while {len(names)} leaves of grant mappings name it"


def fewer(old: int, new: int, shift: int) -> bool:
    """Whether one of the counts in a frame word became smaller."""
    return new >> shift & COUNT_MASK < old >> shift & COUNT_MASK


def words_of(translation: Translation) -> str:
    """A translation in words."""
    return "nothing" if translation is None else f"frame {translation[0]:#x} with rights {rights_text(translation[1])}"


def detour(first: Translation, now: Translation, last: Translation) -> str:
    """What is wrong with a translation between the first and the last of a step; "" if nothing is."""
    if now is None:
        return "" if first is None or last is None else "nothing is mapped"
    ends = [end for end in (first, last) if end is not None]
    if not any(end[0] == now[0] and not now[1] & ~end[1] for end in ends):
        return f"{words_of(now)} is mapped"
    if first is not None and last is not None and first[1] & last[1] & ~now[1]:
        return f"only {words_of(now)} is mapped"
    return ""
