"""The findings of one run: the first of each identity, in order."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from hvfuzz.oracles.framework.finding import Finding
from hvfuzz.oracles.scene.call_stack import CallStack

BOOT: Final = "boot"
"""Operation of a finding from before the first op."""
AUDIT: Final = "audit"
"""Operation of a finding of the audit, and the name of the oracle that then reports it."""
SCENE: Final = "scene"
"""Name, in `FindingLog.failed`, of what all oracles rely on: the call stack, the access filter, the shadow."""
_ASIDES: Final = re.compile(r" \([^()]*\)")
"""State and counts of a frame: they may change between an op and the audit."""
UNKNOWN_CALL: Final = "vmcall"
"""Operation of a finding during a call of an unknown number."""


class FindingLog:
    """Collects what oracles report. `op` and `operation` say what the program is doing."""

    __slots__ = ("_boot", "_calls", "_seen", "_told", "auditing", "failures", "findings", "op", "operation", "witness")

    def __init__(self, calls: CallStack) -> None:
        self._calls: Final = calls
        self.findings: list[Finding] = []
        self._boot: tuple[Finding, ...] = ()
        """What was found before the first run, at boot: each run begins with it."""
        self._seen: dict[tuple[str, str, str], None] = {}
        self._told: dict[tuple[str, str, str], None] = {}
        """(oracle, rule, message without its parentheses) of everything that oracles reported before the audit."""
        self.failures: Final[dict[str, None]] = {}
        """The oracles that raised an exception in this run."""
        self.op = -1
        """Index of the present op."""
        self.operation = BOOT
        """Name of the present op."""
        self.witness: Callable[[Finding], None] | None = None
        """Called with each finding when it is kept."""
        self.auditing = False
        """Whether findings are those of the oracle `audit`: see there."""

    def booted(self) -> None:
        """Keep the findings so far: they are those of the booted system."""
        self._boot = tuple(self.findings)

    def reset(self) -> None:
        """Forget the findings, but for those of the boot; the list that `findings` was stays as it is."""
        self.findings = list(self._boot)
        self._seen = {(each.oracle, each.rule, each.operation): None for each in self._boot}
        self._told = {(each.oracle, each.rule, _ASIDES.sub("", each.message)): None for each in self._boot}
        self.failures.clear()
        self.op = -1
        self.operation = BOOT
        self.auditing = False

    def clear(self) -> None:
        """Forget the findings, in the middle of a run."""
        self.findings.clear()
        self._seen.clear()
        self._told.clear()
        self.failures.clear()

    def failed(self, oracle: str, fault: str) -> None:
        """`oracle` raised an exception. It is reported once, and what the oracle says from now on is not trusted."""
        if oracle not in self.failures:
            self.report("specification", "state", f"the oracle {oracle} can make no sense of the state: {fault}")
            self.failures[oracle] = None

    def report(self, oracle: str, rule: str, message: str) -> None:
        """Keep the finding if it is the first of its identity. During a call, the call is its operation."""
        if oracle in self.failures or SCENE in self.failures:
            return
        operation = self.operation
        calls = self._calls
        call = calls.current
        if call is not calls.idle:
            operation = UNKNOWN_CALL if call.declaration is None else call.declaration.name
        told = oracle, rule, _ASIDES.sub("", message)
        if self.auditing and oracle != AUDIT:
            if told in self._told:
                return  # an oracle has said so when it happened
            oracle, rule = AUDIT, f"{oracle}.{rule}"
        else:
            self._told[told] = None
        key = (oracle, rule, operation)
        if key not in self._seen:
            self._seen[key] = None
            finding = Finding(oracle, rule, operation, message, self.op)
            self.findings.append(finding)
            if self.witness is not None:
                self.witness(finding)
