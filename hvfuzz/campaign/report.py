"""The report of a campaign: a page of Markdown for people, and the same figures as JSON for scripts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hvfuzz.campaign.confirm import ReportedFinding
from hvfuzz.engines.engine import write_whole

VERDICTS = {
    True: "Replayed in another process: the same finding.",
    False: "Replayed in another process: **not seen again**. That is a mistake of hvfuzz.",
    None: "Not replayed: the campaign was stopped, or told not to minimise.",
}


class Summary(NamedTuple):
    """What a campaign did and found."""

    harness: str
    engine: str
    feedback: str
    bug: str | None
    seed: int
    workers: int
    runs: int
    """Programs run."""
    ops: int
    seconds: float
    features: int
    corpus: int
    notices: Sequence[str]
    """What a person should know about the campaign itself: workers replaced, files that could not be written."""
    findings: Sequence[ReportedFinding]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**self._asdict(), "findings": [finding._asdict() for finding in self.findings]}


def render_report(summary: Summary) -> str:
    """The page: what ran, how fast, and each finding with its message and the program that shows it."""
    seconds = max(summary.seconds, 0.001)
    lines = [
        f"# hvfuzz {summary.harness}: {len(summary.findings) or 'no'} finding{'s' * (len(summary.findings) != 1)}",
        "",
        "| | |",
        "|---|---|",
        f"| engine | {summary.engine} (feedback {summary.feedback}), {summary.workers} worker(s) |",
        f"| planted bug | {summary.bug or 'none'} |",
        f"| seed | {summary.seed} |",
        f"| programs | {summary.runs} ({summary.runs / seconds:.0f} a second) |",
        f"| ops | {summary.ops} ({summary.ops / seconds:.0f} a second) |",
        f"| time | {seconds:.1f} s |",
        f"| features | {summary.features} |",
        "",
    ]
    for finding in summary.findings:
        lines += [f"## {finding.identity}", "", finding.message, ""]
        lines += [f"Found after {finding.runs} programs, {finding.seconds:.1f} s. {VERDICTS[finding.confirmed]}", ""]
        lines += [f"`{finding.file}`:" if finding.file else "The program (it could not be saved):", ""]
        lines += ["```", finding.text.rstrip("\n"), "```", ""]
    lines += [f"* {notice}" for notice in summary.notices]
    return "\n".join(lines).rstrip("\n") + "\n"


def write_report(out: Path, summary: Summary) -> Path:
    """Write ``report.md`` and ``report.json`` into `out`; returns the former's path."""
    page = out / "report.md"
    write_whole(page, render_report(summary).encode())
    write_whole(out / "report.json", (json.dumps(summary.as_dict(), indent=2) + "\n").encode())
    return page
