"""What may stand in an entry between its old value and its new one."""

from __future__ import annotations

import pytest

from hvfuzz.oracles.host.moments import Translation, detour

READ, WRITE, EXECUTE = 1, 2, 4
OTHER = (0x41, READ | WRITE)


def page(rights: int) -> Translation:
    """One frame with these rights."""
    return (0x40, rights)


@pytest.mark.parametrize(
    ("first", "now", "last", "wrong"),
    [
        (page(7), page(3), page(1), ""),  # narrowed in two writes
        (page(1), page(3), page(7), ""),
        (page(3), page(7), page(5), "rights RWX"),  # never both before, nor both after
        (page(3), page(1), page(5), ""),
        (page(3), None, page(3), "nothing is mapped"),
        (page(3), page(1), page(3), "only"),
        (None, page(1), page(3), ""),
        (None, page(7), page(3), "rights RWX"),
        (None, page(1), None, "is mapped"),
        (page(3), OTHER, page(3), "frame 0x41"),
        (page(3), (0x41, 3), (0x41, 1), "frame 0x41 with rights RW"),
        (page(3), (0x40, 1), (0x41, 1), ""),
        (page(3), None, None, ""),
    ],
)
def test_detours(first: Translation, now: Translation, last: Translation, wrong: str) -> None:
    text = detour(first, now, last)
    assert (wrong in text) if wrong else text == ""
