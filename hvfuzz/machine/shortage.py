"""Shortage: one request for memory fails as if nothing were left, whatever there is.

Software that hands out memory asks here, at each request that it could otherwise grant. A request is for one piece: a
frame, an aligned block of frames, or a table page; software may ask for several at once. Nothing is counted while
nothing is armed, so the question costs a comparison.
"""

from typing import Final

NEVER: Final = -1


class Shortage:
    """The next request that fails, and the number of requests so far."""

    __slots__ = ("at", "requests", "waiting")

    def __init__(self) -> None:
        self.at: int = NEVER
        """Number of the request that fails, counted as `requests` counts; NEVER if none does."""
        self.requests: int = 0
        """Requests so far that were made while one was to fail."""
        self.waiting: int = NEVER
        """The request to arm when the present op ends; NEVER if none."""

    def arm(self, request: int) -> None:
        """From now on, request number `request` fails, counted from 0."""
        self.at = self.requests + request

    def disarm(self) -> None:
        """No request fails any more."""
        self.at = self.waiting = NEVER

    def op_ended(self) -> None:
        """What was armed is over. What waits is armed: so it never begins in the middle of a call."""
        waiting = self.waiting
        self.disarm()
        if waiting >= 0:
            self.arm(waiting)

    def denies(self, pieces: int) -> bool:
        """Count a request of `pieces` pieces at once; whether it fails, since one of them does.

        Software whose requests are frequent asks only if `at` is not NEVER.
        """
        first = self.requests
        self.requests = first + pieces
        return first <= self.at < first + pieces
