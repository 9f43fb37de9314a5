"""Where an oracle lets something pass because it cannot know: every excuse there is, and how often each was used.

No evidence is no excuse: what passes here was not judged. So each excuse says which check makes good for it in audited
runs, if one does. An audited run does not count those, since there that check has judged the same thing.
"""

from __future__ import annotations

from typing import Final


class Excuse:
    """One kind of excuse: of the rule `rule` (oracle/rule), for the reason `why`.

    `judge` is the rule that judges the same thing in audited runs, "" if none does.
    """

    __slots__ = ("judge", "rule", "why")

    def __init__(self, rule: str, why: str, judge: str = "") -> None:
        self.rule: Final = rule
        self.why: Final = why
        self.judge: Final = judge

    @property
    def name(self) -> str:
        """Its name in reports."""
        return f"{self.rule}: {self.why}"


OLDER: Final = Excuse("fetch/translated", "the TLB has held the translation since before the exit", "principal/cached")
CHANGED: Final = Excuse(
    "fetch/translated", "the tables may have changed in the exit since the translation was cached", "principal/cached"
)
EVICTED: Final = Excuse(
    "fetch/translated", "a crowded cache may have held the translation at the last event", "principal/cached"
)
SECOND_PAGE: Final = Excuse(
    "fetch/translated", "the second page of a result was looked up before the first was written", "principal/cached"
)
RING: Final = Excuse("fetch/translated", "the ring of queued writes is looked up once for its three copies")
OVERLAPPING: Final = Excuse("fetch/twice", "two arguments contain the word, so each may fetch it")
STALE_TABLE: Final = Excuse("principal/cached", "cached entries of the guest's upper tables lead there, they do not")
STRING_CACHED: Final = Excuse("exits/string", "only a cached translation leads to the page", "principal/cached")
STRING_LET_THROUGH: Final = Excuse("exits/string", "a cached translation lets a part of the refused element through")
TARGET_GONE: Final = Excuse("specification/status", "the range to be written is not known to be writable at the end")
RESULT_GONE: Final = Excuse("specification/written", "the result may be lost, as its range is not known to be writable")
TABLES_NEEDED: Final = Excuse(
    "specification/status", "how many table pages the call needs is not predicted, so the pool may have been too small"
)
RACE_PENDING: Final = Excuse("specification/status", "a pending race may make the range to be written writable in time")
POOL_ADOPTED: Final = Excuse("specification/pool", "how many table pages the call takes or gives back is not predicted")
SHARING: Final = Excuse("secrets", "the two domains have shared pages, so one may have told the other")
OWN_TARGET: Final = Excuse("host_memory/fresh", "the call itself may have written to its fresh frame")
RACED_FRAME: Final = Excuse(
    "host_memory/fresh", "a race in the call may have written to its fresh frame", "contents/foreign"
)
DEVICE_MEMORY: Final = Excuse("host_memory/guest", "memory reserved for a device may be zeroed after its reset")

EXCUSES: Final = (
    *(OLDER, CHANGED, EVICTED, SECOND_PAGE, RING, OVERLAPPING, STALE_TABLE, STRING_CACHED, STRING_LET_THROUGH),
    *(TARGET_GONE, RESULT_GONE, TABLES_NEEDED, RACE_PENDING, POOL_ADOPTED, SHARING, OWN_TARGET),
    *(RACED_FRAME, DEVICE_MEMORY),
)
"""Every excuse."""


class Excuses:
    """Counts the excuses of one run. `closely`: it is audited, so that some of them are not needed."""

    __slots__ = ("_counts", "closely")

    def __init__(self) -> None:
        self._counts: dict[Excuse, int] = {}
        self.closely = False

    def note(self, excuse: Excuse) -> None:
        """An oracle uses `excuse`."""
        if not (self.closely and excuse.judge):
            self._counts[excuse] = self._counts.get(excuse, 0) + 1

    def reset(self) -> None:
        """Forget the run."""
        self._counts.clear()

    @property
    def counted(self) -> tuple[tuple[str, int], ...]:
        """(name, how often) of each excuse that was used, in the order of `EXCUSES`."""
        return tuple((each.name, self._counts[each]) for each in EXCUSES if each in self._counts)
