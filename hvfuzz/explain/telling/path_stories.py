"""A way through tables as a story, and as lines of text."""

from __future__ import annotations

from collections.abc import Iterator

from hvfuzz.explain.recording.in_words import entry_text, place_of
from hvfuzz.explain.recording.recorded_moments import Path
from hvfuzz.explain.telling.explanation import EntryLine, PathStory


def path_story(path: Path) -> PathStory:
    """The story of a path; its last entry is wrong if it leads to a foreign frame, and no cache contradicts it."""
    wrong = None if path.own or path.cached or not path.entries else path.entries[-1]
    lines = [EntryLine(*entry, entry_text(path.space, entry), wrong=entry is wrong) for entry in path.entries]
    return PathStory(place_of(path.space, path.page), tuple(lines), path.cached)


def path_lines(story: PathStory) -> Iterator[str]:
    """A line for each entry, and one for what a cache says."""
    for entry in story.entries:
        mark = "  <- this is wrong" if entry.wrong else ""
        where = f"level {entry.level}, frame {entry.table:#x}[{entry.slot:#x}]"
        yield f"  {where:28} = {entry.entry:#018x}  {entry.says}{mark}"
    if story.cached:
        yield f"  but {story.cached}  <- this is stale"
