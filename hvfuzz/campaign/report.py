"""The report of a campaign, as Markdown for people and as JSON for scripts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hvfuzz.campaign.confirm import ReportedFinding
from hvfuzz.campaign.visible_text import shell_line, visible
from hvfuzz.engines.atomic_file import write_atomically

VERDICTS = {
    True: "Confirmed: a second process reproduced it.",
    False: "**Not reproduced** by a second process. This is a bug in hvfuzz; please report it.",
    None: "Not replayed: the campaign was interrupted, or run with `--no-minimise`.",
}


class Summary(NamedTuple):
    """Figures and findings of one campaign. The fields are the keys of `report.json`."""

    harness: str
    engine: str
    feedback: str
    bug: str | None
    seed: int
    workers: int
    runs: int
    """Number of programs run."""
    ops: int
    seconds: float
    features: int
    corpus: int
    notices: Sequence[str]
    """Warnings about the campaign itself: workers replaced, files that could not be written."""
    findings: Sequence[ReportedFinding]

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON."""
        return {**self._asdict(), "findings": [finding._asdict() for finding in self.findings]}


def render_report(summary: Summary) -> str:
    """Render the Markdown page: the configuration, the rates, and each finding with its program."""
    seconds = max(summary.seconds, 0.001)
    lines = [
        f"# hvfuzz {summary.harness}: {quantity(len(summary.findings), 'finding')}",
        "",
        "| | |",
        "|---|---|",
        f"| engine | {summary.engine}, feedback {summary.feedback}, {quantity(summary.workers, 'worker')} |",
        f"| planted bug | {summary.bug or 'none'} |",
        f"| seed | {summary.seed} |",
        f"| programs | {summary.runs:,} ({summary.runs / seconds:,.0f}/s) |",
        f"| ops | {summary.ops:,} ({summary.ops / seconds:,.0f}/s) |",
        f"| time | {seconds:.1f} s |",
        f"| features | {summary.features:,} |",
        "",
    ]
    for finding in summary.findings:
        lines += [f"## {finding.identity}", "", finding.message, ""]
        effort = f"{quantity(finding.runs, 'program')} and {finding.seconds:.1f} s"
        lines += [f"Found after {effort}. {VERDICTS[finding.confirmed]}", ""]
        if finding.file is None:
            lines += ["The program could not be saved:", ""]
        else:
            lines += [f"Reproduce it with `{shell_line(('hvfuzz', 'repro', finding.file))}`:", ""]
        lines += ["```", finding.text.rstrip("\n"), "```", ""]
    if summary.notices:
        lines += ["## Warnings", "", *(f"* {notice}" for notice in summary.notices)]
    return visible("\n".join(lines)).rstrip("\n") + "\n"


def quantity(number: int, noun: str) -> str:
    """Format a number with its noun: "no ops", "1 op", "1,200 ops"."""
    return f"{number or 'no':{',' if number else ''}} {noun}{'' if number == 1 else 's'}"


def write_report(out: Path, summary: Summary) -> Path:
    """Write ``report.md`` and ``report.json`` to the folder `out`, and return the path of the former."""
    page = out / "report.md"
    write_atomically(page, render_report(summary).encode())
    write_atomically(out / "report.json", (json.dumps(summary.as_dict(), indent=2) + "\n").encode())
    return page
