"""Commands write through `hvfuzz.cli.screen` and `hvfuzz.campaign.visible_text` only, so that output always prints."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLI = ROOT / "hvfuzz" / "cli"
FORBIDDEN = {"print", "echo", "secho", "write", "writelines", "Console", "dumps"}
#: (file, call) that may stand: the screen itself, and the help that click has formatted.
ALLOWED = {("screen.py", "print"), ("screen.py", "dumps"), ("__init__.py", "echo")}


def faults(name: str, source: str) -> list[str]:
    """The calls in `source` that write, or make a console, in another way."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Name):
            called = function.id
        elif isinstance(function, ast.Attribute) and function.attr != "print":
            called = function.attr
        else:
            continue  # `screen.print`
        if called in FORBIDDEN and (name, called) not in ALLOWED:
            found.append(f"{name}:{node.lineno}: {called}")
    return found


@pytest.mark.parametrize("path", sorted(CLI.rglob("*.py")), ids=lambda path: str(path.relative_to(CLI)))
def test_no_command_writes_past_the_screen(path: Path) -> None:
    assert faults(path.name, path.read_text()) == []


@pytest.mark.parametrize(
    "source", ["print(1)", "click.echo('x')", "sys.stdout.write('x')", "Console()", "rich.console.Console()"]
)
def test_the_check_sees_it(source: str) -> None:
    assert faults("x.py", source)
