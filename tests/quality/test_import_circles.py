"""No module reaches itself by imports, those under TYPE_CHECKING and inside functions included."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def modules(root: Path) -> dict[str, str]:
    """Dotted name -> source of every module of hvfuzz below `root`."""
    found = {}
    for path in sorted((root / "hvfuzz").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


def imported(module: str, source: str, known: Mapping[str, str]) -> set[str]:
    """The modules that `module` imports, and the packages whose `__init__` runs for that.

    Its own packages do not count: they are being imported already.
    """
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    found = set()
    for name in names:
        parts = name.split(".")
        prefixes = [".".join(parts[:length]) for length in range(2, len(parts) + 1)]
        hits = [prefix for prefix in prefixes if prefix in known]
        found |= {hit for hit in hits if not f"{module}.".startswith(f"{hit}.")}
    return found


def circles(graph: Mapping[str, set[str]]) -> Iterator[list[str]]:
    """One circle through each module that reaches itself: the shortest."""
    for start in sorted(graph):
        ways = [[start]]
        seen: set[str] = set()
        while ways:
            way = ways.pop(0)
            for following in sorted(graph[way[-1]]):
                if following == start:
                    yield [*way, start]
                    ways = []
                    break
                if following not in seen:
                    seen.add(following)
                    ways.append([*way, following])


def test_there_is_no_circle() -> None:
    sources = modules(ROOT)
    graph = {module: imported(module, source, sources) for module, source in sources.items()}
    assert len(graph) > 250
    assert [" -> ".join(circle) for circle in circles(graph)] == []


@pytest.mark.parametrize(
    "imports",
    [
        "from hvfuzz.a import y",
        "from hvfuzz.a.y import thing",
        "import hvfuzz.a.y",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from hvfuzz.a.y import Thing",
        "def late():\n    from hvfuzz.a.y import thing",
    ],
)
def test_a_circle_is_seen(imports: str) -> None:
    sources = {"hvfuzz.a": "", "hvfuzz.a.x": imports, "hvfuzz.a.y": "from hvfuzz.b import z", "hvfuzz.b": ""}
    sources["hvfuzz.b.z"] = "from hvfuzz.a.x import thing"
    graph = {module: imported(module, source, sources) for module, source in sources.items()}
    assert list(circles(graph))


def test_the_init_of_a_package_counts() -> None:
    sources = {"hvfuzz.a": "from hvfuzz.b.z import thing", "hvfuzz.a.x": "", "hvfuzz.b": "", "hvfuzz.b.z": ""}
    sources["hvfuzz.b.z"] = "from hvfuzz.a.x import thing"
    graph = {module: imported(module, source, sources) for module, source in sources.items()}
    assert list(circles(graph))
