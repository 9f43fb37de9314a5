"""`hvfuzz bugs`: lists the planted bugs and verifies that the oracles find each of them."""

import inspect
import sys
from dataclasses import asdict
from typing import Any

import click
from rich.markup import escape

from hvfuzz.bugs import Bug, BugError, Plant, find_bug, known_bugs
from hvfuzz.campaign.forked_target import ForkedTarget
from hvfuzz.cli.options import Group, json_option
from hvfuzz.cli.screen import Screen, write_json, write_text
from hvfuzz.guest.format.scanner import TextError
from hvfuzz.guest.format.text import parse
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget


@click.group(
    "bugs",
    cls=Group,
    short_help="List, show and verify the planted bugs.",
    examples=("hvfuzz bugs list", "hvfuzz bugs show xsa-212", "hvfuzz bugs verify"),
)
def command() -> None:
    """List, show and verify the planted bugs.

    A planted bug is a published vulnerability, recreated by replacing one function of the hypervisor. Plant one with
    `hvfuzz fuzz --bug NAME`.
    """


@command.command(
    "list",
    short_help="List all planted bugs.",
    examples=("hvfuzz bugs list", "hvfuzz bugs list --json"),
)
@json_option("Print a JSON list with all fields of each bug.")
def list_bugs(as_json: bool) -> None:
    """List all planted bugs: name, difficulty from 1 (easy) to 5, expected finding, advisory and title."""
    bugs = known_bugs()
    if as_json:
        write_json([_plain(bug) for bug in bugs.values()])
        return
    console = Screen()
    width = max(map(len, bugs))
    console.print(f"[dim]{'BUG':{width}}  DIFFICULTY  FINDING[/]", soft_wrap=True)
    for bug in bugs.values():
        console.print(f"[bold]{bug.name:{width}}[/]  {bug.difficulty:^10}  {bug.findings[0]}", soft_wrap=True)
        console.print(f"  [dim]{escape(bug.advisory)}: {escape(bug.title)}[/]", soft_wrap=True)


@command.command(
    "show",
    short_help="Show the cause and the trigger of one bug.",
    examples=("hvfuzz bugs show xsa-212", "hvfuzz bugs show hvfuzz/bugs/ipc/xsa_224.py --json"),
)
@click.argument("name", metavar="NAME|FILE.py")
@json_option()
def show(name: str, as_json: bool) -> None:
    """Show one bug: its cause, the function it replaces, the expected findings and the program that triggers it."""
    bug = find_bug(name)
    if as_json:
        write_json(_plain(bug))
        return
    console = Screen()
    console.print(f"[bold]{escape(bug.name)}[/]: {escape(bug.title)}", soft_wrap=True)
    console.print()
    console.print(escape(inspect.cleandoc(bug.story)), soft_wrap=True)
    console.print()
    rows = [("advisory", bug.advisory), ("difficulty", f"{bug.difficulty} of 5" if bug.difficulty else "")]
    rows += [("replaces", bug.replaces), *(("finding", finding) for finding in bug.findings)]
    for label, text in rows:
        if text:
            console.print(f"[bold]{label:10}[/]  {escape(text)}", soft_wrap=True)
    if bug.trigger:
        console.print()
        write_text(bug.trigger.strip())


@command.command(
    "verify",
    short_help="Verify that each bug is found, and only where it is planted.",
    examples=("hvfuzz bugs verify", "hvfuzz bugs verify xsa-78 hvfuzz/bugs/ipc/xsa_224.py"),
)
@click.argument("names", metavar="[NAME|FILE.py]...", nargs=-1)
@json_option("Print a JSON list.")
def verify(names: tuple[str, ...], as_json: bool) -> None:
    """Run the trigger of each bug (default: all) on the hypervisor with the bug and without it.

    With the bug, the oracles must report exactly the expected findings; without it, none. Exits with 1 if they do not.
    """
    bugs = [find_bug(name) for name in names] or list(known_bugs().values())
    for bug in bugs:
        Plant(bug)  # raises BugError for a target that does not exist
    console = Screen(stderr=as_json)
    width = max(len(bug.name) for bug in bugs)
    rows: list[dict[str, Any]] = []
    for bug in bugs:
        faulty, clean = findings_of(bug, planted=True, apart=True), findings_of(bug, planted=False)
        good = behaves(bug, faulty, clean)
        rows.append({"bug": bug.name, "good": good, "expected": bug.findings, "faulty": faulty, "clean": clean})
        mark = "[green]ok[/]  " if good else "[bold red]BAD[/] "
        console.print(f"{mark}{escape(bug.name):{width}}  {_verdict(bug, faulty, clean)}", soft_wrap=True)
    verified = sum(row["good"] for row in rows)
    console.print(f"{verified} of {len(rows)} verified", style="green" if verified == len(rows) else "bold red")
    if as_json:
        write_json(rows)
    sys.exit(0 if verified == len(rows) else 1)


def _verdict(bug: Bug, faulty: list[str], clean: list[str]) -> str:
    """Describe what the trigger showed, and how that differs from what is expected."""
    if not bug.trigger:
        return "has no trigger to run"
    parts = [f"finds {', '.join(faulty) or 'nothing'}"]
    if sorted(faulty) != sorted(bug.findings):
        parts.append(f"expected {', '.join(bug.findings) or 'nothing'}")
    if clean:
        parts.append(f"without the bug it finds {', '.join(clean)}")
    return "; ".join(parts)


def findings_of(bug: Bug, *, planted: bool, apart: bool = False) -> list[str]:
    """Run the trigger of `bug`, with the bug planted or not; returns the identities found. Raises `BugError`.

    With `apart`, the trigger may end its process: it has one of its own, which needs a caller with a single thread.
    """
    if not bug.trigger:
        return []
    build = bug if planted else None
    with ForkedTarget(build) if apart else EmulatedTarget(build) as target:
        try:
            program = parse(bug.trigger, target.catalogue)
        except TextError as error:
            raise BugError(f"{bug.name}: trigger: {error}") from error
        return [finding.identity for finding in target.run(program).findings]


def behaves(bug: Bug, faulty: list[str], clean: list[str]) -> bool:
    """Whether the trigger gives the expected findings with the bug (`faulty`), and none without it (`clean`)."""
    return bool(faulty) and sorted(faulty) == sorted(bug.findings) and not clean


def _plain(bug: Bug) -> dict[str, Any]:
    return {name: value for name, value in asdict(bug).items() if name != "replacement"}
