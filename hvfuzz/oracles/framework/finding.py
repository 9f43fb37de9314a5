"""What an oracle reports: which oracle, which of its rules, during which operation, and a message for people."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """One violated invariant.

    `identity` is what makes two findings the same bug: it holds no address, no domain number and no value,
    so that the minimiser may change all of these and still hold on to the finding. `message` may say anything.
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
