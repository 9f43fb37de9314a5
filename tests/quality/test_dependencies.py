"""What is declared is used, and what is used is declared."""

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
OWN = {"hvfuzz", "tests", "triggers"}
#: Packages that nothing imports, and what shows that they are used: a program in the Makefile, an option of pytest.
TOOLS = {
    "coverage": "$(BIN)/coverage ",
    "mypy": "$(BIN)/mypy",
    "ruff": "$(BIN)/ruff ",
    "pytest-timeout": "timeout = ",
    "pytest-xdist": "pytest -n ",
}


def declared() -> set[str]:
    """Names of all packages in pyproject.toml: dependencies and extras."""
    project = PROJECT["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return {name.group() for line in lines if (name := re.match(r"[A-Za-z0-9_-]+", line)) is not None}


def imported() -> set[str]:
    """Top-level names of everything that a Python file of the tree imports, other than the standard library."""
    found = set()
    for folder in ("hvfuzz", "harnesses", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    found.add((node.module or "").split(".")[0])
                elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("import_module", "importorskip"):
                    name = node.args[0]
                    if isinstance(name, ast.Constant):
                        found.add(str(name.value).split(".")[0])
    return {name for name in found if name not in sys.stdlib_module_names} - OWN


def test_every_package_declared_is_used() -> None:
    unused = declared() - imported()
    assert unused == set(TOOLS)
    pyproject = (ROOT / "pyproject.toml").read_text()
    for words in TOOLS.values():
        assert words in MAKEFILE + pyproject


def test_every_package_imported_is_declared() -> None:
    assert imported() - declared() == set()


def test_every_extra_that_is_installed_by_name_exists() -> None:
    extras = set(PROJECT["project"]["optional-dependencies"])
    files = [ROOT / "Makefile", ROOT / "README.md", *(ROOT / ".github").rglob("*.yml"), *(ROOT / ".ci").glob("*")]
    named = re.findall(r"\.\[([a-z,]+)\]", "\n".join(path.read_text() for path in files if path.is_file()))
    assert named
    assert {each for names in named for each in names.split(",")} <= extras
