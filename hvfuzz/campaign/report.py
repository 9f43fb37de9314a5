"""The report of a campaign: a page of Markdown for people, and the same figures as JSON for scripts."""

import json
from pathlib import Path
from typing import Any

from hvfuzz.engines.engine import write_whole


def render_report(summary: dict[str, Any]) -> str:
    """The page: what ran, how fast, and each finding with its message and the program that shows it."""
    seconds = max(summary["seconds"], 0.001)
    lines = [
        f"# hvfuzz {summary['harness']}: {len(summary['findings'])} findings",
        "",
        "| | |",
        "|---|---|",
        f"| engine | {summary['engine']} (feedback {summary['feedback']}), {summary['workers']} worker(s) |",
        f"| planted bug | {summary['bug'] or 'none'} |",
        f"| seed | {summary['seed']} |",
        f"| programs | {summary['runs']} ({summary['runs'] / seconds:.0f} a second) |",
        f"| ops | {summary['ops']} ({summary['ops'] / seconds:.0f} a second) |",
        f"| time | {seconds:.1f} s |",
        f"| features | {summary['features']} |",
        "",
    ]
    for finding in summary["findings"]:
        lines += [f"## {finding['identity']}", "", finding["message"], ""]
        lines += [f"Found after {finding['runs']} programs, {finding['seconds']:.1f} s.", ""]
        if "confirmed" in finding:
            lines += [
                "Replayed in another process: "
                + ("the same finding." if finding["confirmed"] else "**not seen again**: that is a mistake of hvfuzz."),
                "",
            ]
        if finding["file"] is not None:
            path = Path(finding["file"])
            lines += [f"`{path}`:", "", "```", path.read_text().rstrip("\n"), "```", ""]
    lines += [f"* {notice}" for notice in summary["notices"]]
    return "\n".join(lines).rstrip("\n") + "\n"


def write_report(out: Path, summary: dict[str, Any]) -> Path:
    """Write ``report.md`` and ``report.json`` into `out`; returns the former's path."""
    page = out / "report.md"
    write_whole(page, render_report(summary).encode())
    write_whole(out / "report.json", (json.dumps(summary, indent=2) + "\n").encode())
    return page
