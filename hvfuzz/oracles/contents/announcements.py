"""The writes to memory that were announced and are not made yet. Helper of `memory_model`."""

from __future__ import annotations

from typing import Any, Final

from hvfuzz.oracles.scene.call_stack import NO_DOMAIN

NOTHING: Final = (0, 0)


class Announcements:
    """(first byte, end) of the last announcement of each kind; NOTHING once it is used up."""

    __slots__ = ("access", "accessor", "copied_for", "copied_to", "copy", "host", "kept")

    def __init__(self) -> None:
        self.kept: tuple[Any, ...] | None = None
        """The announcements from before the race that acts now."""
        self.forget()

    def forget(self) -> None:
        """Nothing is announced."""
        self.access = self.copy = self.host = NOTHING
        self.accessor: Any = None
        """Who has announced `access`: a vCPU or a device."""
        self.copied_for = NO_DOMAIN
        self.copied_to: list[int] = []
        """Frames to which the announced copy may write."""
        self.kept = None

    def put_aside(self) -> None:
        """A race acts: what was announced is written after it."""
        kept = (self.accessor, self.access, self.copy, self.copied_for, self.copied_to, self.host)
        self.forget()
        self.kept = kept

    def take_up(self) -> None:
        """The race is over: what was announced before it may be written now."""
        if self.kept is not None:
            self.accessor, self.access, self.copy, self.copied_for, self.copied_to, self.host = self.kept
            self.kept = None


def within(announced: tuple[int, int], first: int, end: int) -> bool:
    """Whether all bytes from `first` to before `end` were announced."""
    return announced[0] <= first and end <= announced[1]
