"""The report of a campaign, as Markdown for people and as JSON for scripts."""

import itertools
import json
import os
from collections.abc import Sequence
from contextlib import suppress
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
    """Warnings about the campaign itself: workers replaced, files that were passed over or could not be written."""
    findings: Sequence[ReportedFinding]
    error: str | None = None
    """Why the campaign ended early, or what it could not do; None if all went well."""
    bug_file: str | None = None
    """The Python file that the user planted as the bug; None for a bug of the package, or none."""

    def replay(self, file: str) -> tuple[str, ...]:
        """The arguments of `hvfuzz` that replay the program in `file`.

        A bug of the user's own is named again: the record of a finding must not choose a Python file to run.
        """
        return ("repro", file, *(() if self.bug_file is None else ("--bug", self.bug_file)))

    def headline(self) -> str:
        """The result in a few words; a campaign that failed, or ran nothing, does not count as clean."""
        found = quantity(len(self.findings), "finding")
        if self.error is not None:
            return f"failed, {found}"
        return found if self.runs or self.findings else "no program ran"

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON."""
        return {**self._asdict(), "findings": [finding._asdict() for finding in self.findings]}


def render_report(summary: Summary) -> str:
    """Render the Markdown page: the configuration, the rates, and each finding with its program."""
    seconds = max(summary.seconds, 0.001)
    lines = [
        f"# hvfuzz {summary.harness}: {summary.headline()}",
        "",
        *([f"**Error**: {summary.error}", ""] if summary.error is not None else []),
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
        if finding.summary:
            title, *paragraph = finding.summary
            lines += [f"**{title}**", "", *paragraph, ""]
        effort = f"{quantity(finding.runs, 'program')} and {finding.seconds:.1f} s"
        lines += [f"Found after {effort}. {VERDICTS[finding.confirmed]}", ""]
        if finding.file is None:
            lines += ["The program could not be saved:", ""]
        else:
            lines += [f"Reproduce it with `{shell_line(('hvfuzz', *summary.replay(finding.file)))}`:", ""]
        lines += ["```", finding.text.rstrip("\n"), "```", ""]
    if summary.notices:
        lines += ["## Warnings", "", *(f"* {notice}" for notice in summary.notices)]
    return visible("\n".join(lines)).rstrip("\n") + "\n"


def quantity(number: int, noun: str) -> str:
    """Format a number with its noun: "no ops", "1 op", "1,200 ops"."""
    return f"{number or 'no':{',' if number else ''}} {noun}{'' if number == 1 else 's'}"


def write_report(out: Path, name: str, summary: Summary) -> Path:
    """Write the report of one campaign to the folder `out`; returns the path of its page.

    The report is ``reports/NAME.md`` and ``reports/NAME.json``, with a number if other campaigns have that name.
    ``report.md`` and ``report.json`` are links to the report written last.
    """
    folder = out / "reports"
    folder.mkdir(exist_ok=True)
    page = _reserve(folder, name)
    data = page.with_suffix(".json")
    try:
        write_atomically(data, (json.dumps(summary.as_dict(), indent=2) + "\n").encode(), durable=True)
        write_atomically(page, render_report(summary).encode(), durable=True)
    except BaseException:
        with suppress(OSError):
            page.unlink()  # empty
        raise
    for path in (page, data):
        with suppress(OSError):
            _link(out / f"report{path.suffix}", path)
    return page


def _reserve(folder: Path, name: str) -> Path:
    """Create an empty page that no other campaign has."""
    for number in itertools.count(1):
        page = folder / (f"{name}.md" if number == 1 else f"{name}-{number}.md")
        try:
            page.open("xb").close()
        except FileExistsError:
            continue
        return page
    raise AssertionError("numbers do not end")


def _link(latest: Path, path: Path) -> None:
    """Make `latest` a link to `path`, or a copy where there are no links."""
    temporary = latest.with_name(f".{latest.name}.{os.getpid()}")
    try:
        temporary.symlink_to(path.relative_to(latest.parent))
    except OSError:
        write_atomically(latest, path.read_bytes())
    else:
        temporary.replace(latest)
