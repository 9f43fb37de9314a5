"""A finding: which oracle reports which of its rules, during which operation, with a message for people."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """One violated invariant.

    Two findings with the same `identity` count as the same bug. The identity holds no address, domain number or value,
    so that the minimiser can change these without losing the finding. `message` may say anything.
    """

    oracle: str
    rule: str
    operation: str
    message: str
    op: int

    @property
    def identity(self) -> str:
        """ "oracle/rule/operation", the name of the bucket that this finding belongs to."""
        return f"{self.oracle}/{self.rule}/{self.operation}"
