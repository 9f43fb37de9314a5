"""Which finding is the root, and which ones follow from it.

One fault breaks several rules, and oracles notice them in the order in which they look. The root is the one that was
broken first: of the first op with a finding, and in that op the one nearest to the cause. A fetch, a check or a
translation that is wrong comes before the counts and tables that it spoils, those before the memory that can then be
reached, and that before what leaks from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from hvfuzz.oracles.framework.finding import Finding

ORDER: Final = (
    # Who asked, and for what.
    "principal",
    "fetch",
    "specification/dispatch specification/args specification/status",
    # What the hypervisor does that it must not, at the moment when it does it.
    "host_memory/null host_memory/bounds host_memory/hole host_memory/fault host_memory/exception host_memory/free",
    "host_memory/freed host_memory/guest host_memory/scrub host_memory/poison",
    # Order and flushes: what should have come before.
    "stale/leaf stale/order stale/tlb stale/iotlb stale/structure stale/context stale/unflushed",
    "recount",
    "ownership",
    "host_memory",
    "exits",
    "work",
    # What is then wrong in the end.
    "specification",
    "contents",
    "secrets",
    "noninterference laws audit",
)
"""Rules and oracles, the nearest to a cause first; a rule counts more than its oracle."""
_RANKS: Final = {name: rank for rank, names in enumerate(ORDER) for name in names.split()}


class Cause(NamedTuple):
    """A finding that follows from no other one, and those that follow from it, in the order of their ops."""

    root: Finding
    follows: tuple[Finding, ...]


def cause_of(findings: Sequence[Finding]) -> Cause:
    """The root among `findings`, which must not be empty. A program shows one fault: what comes later follows."""
    ordered = sorted(findings, key=lambda finding: (finding.op, _rank(finding)))
    return Cause(ordered[0], tuple(ordered[1:]))


def _rank(finding: Finding) -> int:
    oracle, rule = finding.oracle, finding.rule
    if oracle == "audit" and "." in rule:
        oracle, _, rule = rule.partition(".")
    return _RANKS.get(f"{oracle}/{rule.partition(':')[0]}", _RANKS.get(oracle, len(ORDER)))
