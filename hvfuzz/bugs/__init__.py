"""Planted bugs: the ground truth that shows what fuzzer and oracles can find. One file each."""

import importlib
import importlib.util
import pkgutil
import sys
from difflib import get_close_matches
from pathlib import Path

from hvfuzz.bugs.bug import Bug, BugError, Plant, planted

__all__ = ["Bug", "BugError", "Plant", "find_bug", "known_bugs", "planted"]


def known_bugs() -> dict[str, Bug]:
    """The bugs of this package by name, in order of name."""
    modules = [found.name for found in pkgutil.walk_packages(__path__, f"{__name__}.") if not found.ispkg]
    bugs = [importlib.import_module(name).BUG for name in modules if name != Bug.__module__]
    return {bug.name: bug for bug in sorted(bugs, key=lambda bug: bug.name)}


def _from_file(path: Path) -> Bug:
    spec = importlib.util.spec_from_file_location(f"planted_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise BugError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    sys.path.append(folder)  # last, so that a file may import its neighbours but not shadow anything installed
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever a stranger's file raises is an error of that file
        reason = str(error).partition("\n")[0]
        raise BugError(f"{path}: {type(error).__name__}: {reason}") from error
    finally:
        sys.path.remove(folder)
    bug = getattr(module, "BUG", None)
    if not isinstance(bug, Bug):
        raise BugError(f"{path}: defines no BUG = Bug(...)")
    return bug


def find_bug(name: str) -> Bug:
    """The bug called `name`, or the one that the Python file at path `name` defines.

    Raises `BugError` with the nearest known name.
    """
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise BugError(f"{name}: no such file")
        return _from_file(path)
    bugs = known_bugs()
    if name in bugs:
        return bugs[name]
    near = get_close_matches(name.lower().replace("_", "-"), bugs, 1, 0.5)
    hint = f", did you mean {near[0]!r}?" if near else ""
    raise BugError(f"no bug {name!r}{hint} (`hvfuzz bugs list` lists them; a file of your own ends in .py)")
