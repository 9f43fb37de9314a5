"""`hvfuzz bugs`: the planted vulnerabilities, and whether oracles and hypervisor agree on each."""

import inspect
import json
import sys
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from hvfuzz.bugs import Bug, BugError, find_bug, known_bugs
from hvfuzz.guest.format.scanner import TextError
from hvfuzz.guest.format.text import parse
from hvfuzz.targets.emulated_target import EmulatedTarget


@click.group("bugs", short_help="The planted bugs: list, show, verify.")
def command() -> None:
    """The planted bugs: published vulnerabilities, each as one replaced function.

    \b
    Examples:
      hvfuzz bugs list
      hvfuzz bugs show xsa-212
      hvfuzz bugs verify
    """


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_bugs(as_json: bool) -> None:
    """List the bugs with their advisory, difficulty (1 easy, 5 hard) and the finding each must give.

    \b
    Example:
      hvfuzz bugs list
    """
    bugs = known_bugs()
    if as_json:
        print(json.dumps([_plain(bug) for bug in bugs.values()]))
        return
    console = Console(highlight=False)
    width = max(map(len, bugs))
    for bug in bugs.values():
        console.print(f"[bold]{bug.name:{width}}[/]  D{bug.difficulty}  {bug.findings[0]}", soft_wrap=True)
        console.print(f"{'':{width}}  [dim]{escape(bug.advisory)}: {escape(bug.title)}[/]", soft_wrap=True)


@command.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(name: str, as_json: bool) -> None:
    """Show one bug: cause, simplification, and the program that triggers it.

    \b
    Examples:
      hvfuzz bugs show xsa-212
      hvfuzz bugs show my_bug.py --json
    """
    bug = find_bug(name)
    if as_json:
        print(json.dumps(_plain(bug)))
        return
    console = Console(highlight=False)
    console.print(f"[bold]{escape(bug.name)}[/]  {escape(bug.advisory)}  (difficulty {bug.difficulty})", soft_wrap=True)
    console.print(bug.title, markup=False, soft_wrap=True)
    console.print()
    console.print(escape(inspect.cleandoc(bug.story)), soft_wrap=True)
    console.print()
    console.print(f"[bold]replaces[/]  {escape(bug.replaces)}", soft_wrap=True)
    for finding in bug.findings:
        console.print(f"[bold]finding[/]   {escape(finding)}", soft_wrap=True)
    console.print()
    click.echo(bug.trigger.strip())


@command.command("verify")
@click.argument("names", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def verify(names: tuple[str, ...], as_json: bool) -> None:
    """Run each trigger on the faulty build and on the clean one: exactly its finding, and nothing.

    Ends with status 1 if any bug does not behave.

    \b
    Examples:
      hvfuzz bugs verify
      hvfuzz bugs verify xsa-78 my_bug.py
    """
    bugs = [find_bug(name) for name in names] or list(known_bugs().values())
    console = Console(highlight=False, stderr=as_json)
    rows: list[dict[str, Any]] = []
    for bug in bugs:
        faulty, clean = findings_of(bug, planted=True), findings_of(bug, planted=False)
        good = behaves(bug, faulty, clean)
        rows.append({"bug": bug.name, "good": good, "expected": bug.findings, "faulty": faulty, "clean": clean})
        mark = "[green]ok[/]  " if good else "[bold red]BAD[/] "
        console.print(f"{mark}{bug.name:17} {_verdict(bug, faulty, clean)}", soft_wrap=True)
    if as_json:
        print(json.dumps(rows))
    sys.exit(0 if all(row["good"] for row in rows) else 1)


def _verdict(bug: Bug, faulty: list[str], clean: list[str]) -> str:
    """What was found, and what was not as it should be."""
    if not bug.trigger:
        return "it has no trigger"
    parts = [f"finds {', '.join(faulty) or 'nothing'}"]
    if sorted(faulty) != sorted(bug.findings):
        parts.append(f"should find {', '.join(bug.findings) or 'nothing'}")
    if clean:
        parts.append(f"the clean hypervisor gives {', '.join(clean)}")
    return "; ".join(parts)


def findings_of(bug: Bug, *, planted: bool) -> list[str]:
    """The identities that the trigger of `bug` gives, with the bug planted or without. Raises `BugError`."""
    if not bug.trigger:
        return []
    with EmulatedTarget(bug if planted else None) as target:
        try:
            program = parse(bug.trigger, target.catalogue)
        except TextError as error:
            raise BugError(f"{bug.name}: its trigger: {error}") from error
        return [finding.identity for finding in target.run(program).findings]


def behaves(bug: Bug, faulty: list[str], clean: list[str]) -> bool:
    """Whether these findings of its trigger, planted and not, are what `bug` promises."""
    return bool(faulty) and sorted(faulty) == sorted(bug.findings) and not clean


def _plain(bug: Bug) -> dict[str, Any]:
    return {name: value for name, value in asdict(bug).items() if name != "replacement"}
