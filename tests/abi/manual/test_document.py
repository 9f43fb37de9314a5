"""ABI.md: the text has everything that the author of a guest needs."""

import re
from typing import Annotated

from hvfuzz.abi.declaration import Since, hypercall
from hvfuzz.abi.kinds import CallEntries, Count, DmaRing, Flags, GfnArg, PortArray
from hvfuzz.abi.manual.document import render
from hvfuzz.abi.registry import Abi
from hvfuzz.abi.status import Status


@hypercall(0x10, name="memory.populate", result="count", errors=(Status.INVALID, Status.EXISTS), privileged=True)
class Populate:
    """Give the caller frames.

    Each is zeroed | fresh.
    """

    first: GfnArg
    count: Count = 1
    flags: Annotated[int, Flags("TOP_DOWN", "PINNED", width=8), Since(2)] = 0


@hypercall(0x43, name="sched.poll", produces="port", result="the port", long=True, since=2)
class Poll:
    """Wait.

    For an event.

    - `INVALID`: too many ports,
      or none.
    - `NO_PORT`, `FAULT`, for each port in order: it is closed; it is not readable.
    """

    ports: PortArray
    ring: DmaRing
    entries: CallEntries


@hypercall(0x40, name="sched.yield")
class Yield:
    """Go on later."""


TEXT = render(Abi([Populate, Poll, Yield]))


def section(title: str) -> str:
    found = re.search(rf"^### {re.escape(title)}$(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def test_a_call_has_all_of_its_declaration() -> None:
    text = section("memory.populate (0x10)")
    assert "Number 0x10, since version 1. Privileged" in text
    assert "Give the caller frames.\n\nEach is zeroed | fresh." in text
    assert "| 8 | u64 | `first` | 1 | guest frame number |" in text
    assert "| 16 | u32 | `count` | 1 | number of elements; if omitted, 1 |" in text
    assert "| 24 | u64 | `flags` | 2 | any of TOP_DOWN = 0x1, PINNED = 0x2 |" in text
    assert "Struct: 32 bytes; 24 at version 1." in text
    assert "Result: count." in text
    assert "Checks fail with: `INVALID`, `EXISTS`." in text


def test_pointers_say_what_they_point_to() -> None:
    text = section("sched.poll (0x43)")
    assert "Preemptible: " in text
    assert "| `ports` | 2 | guest pointer to u32[], at most 16: number of an event port |" in text
    assert "number of elements, then (device address, device address, " in text
    assert "(number, argument struct, status, result) for each call" in text
    assert "Result: the port (a `port`)." in text


def test_checks_come_after_the_result() -> None:
    text = section("sched.poll (0x43)")
    assert "\n\nWait.\n\nFor an event.\n\n| offset |" in text
    assert text.endswith(
        """
Result: the port (a `port`).

Checks, in order:

- `INVALID`: too many ports,
  or none.
- `NO_PORT`, `FAULT`, for each port in order: it is closed; it is not readable.

"""
    )


def test_a_call_without_fields_has_no_table() -> None:
    text = section("sched.yield (0x40)")
    assert "|" not in text
    assert "Struct: 8 bytes." in text
    assert "Result: 0." in text


def test_conventions_are_there() -> None:
    for status in Status:
        assert f"| `{status.name}` | {status.value} |" in TEXT
    assert "| `INVALID` | -2 | 0xffff_ffff_ffff_fffe |" in TEXT
    for words in ("MAX_GFN", "populate.flags", "SELF", "Order of checks", "zero", "0xffff_8800_0000_0000"):
        assert words in TEXT


def test_links_lead_to_sections() -> None:
    titles = re.findall(r"^### (.*)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\(#([^)]*)\)", TEXT)) == anchors
    assert len(anchors) == 3


def test_tables_are_whole() -> None:
    for block in re.findall(r"(?:^\|.*\|$\n?)+", TEXT, re.MULTILINE):
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(columns) == 1, block


def test_the_text_is_stable_and_clean() -> None:
    assert render(Abi([Yield, Poll, Populate])) == TEXT
    assert not re.search(r"[ \t]$", TEXT, re.MULTILINE)
    assert "\n\n\n" not in TEXT
