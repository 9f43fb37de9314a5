"""Planted bugs, one file each: the ground truth against which the fuzzer and the oracles are measured."""

import importlib
import importlib.util
import os
import pkgutil
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from hvfuzz.bugs.bug import Bug, BugError, Plant, planted

__all__ = ["Bug", "BugError", "Plant", "find_bug", "known_bugs", "planted", "recorded_bug"]

SHOWN: Final = 60
"""Characters of an unknown name that a message repeats."""


def known_bugs() -> dict[str, Bug]:
    """The bugs in this package, by name and sorted by name."""
    modules = [found.name for found in pkgutil.walk_packages(__path__, f"{__name__}.") if not found.ispkg]
    bugs = [importlib.import_module(name).BUG for name in modules if name != Bug.__module__]
    return {bug.name: bug for bug in sorted(bugs, key=lambda bug: bug.name)}


def _from_file(path: Path) -> Bug:
    spec = importlib.util.spec_from_file_location(f"planted_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise BugError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    folder = os.path.dirname(os.path.realpath(path))
    sys.path.append(folder)  # last, so that a file can import its neighbours but not shadow an installed module
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise BugError(f"{path}: imports module {error.name!r}, which does not exist") from error
    except (Exception, SystemExit) as error:  # anything that a user's file raises is an error in that file
        reason = str(error).partition("\n")[0]
        raise BugError(f"{path}: {type(error).__name__}: {reason}") from error
    finally:
        sys.path.remove(folder)
    bug = getattr(module, "BUG", None)
    if not isinstance(bug, Bug):
        raise BugError(f"{path}: must define BUG = Bug(...)")
    return bug


def find_bug(name: str) -> Bug:
    """Return the bug called `name`, or the bug that the Python file `name` defines (if it ends in .py).

    This runs that file. So `name` must come from the user: from the command line, or from HVFUZZ_BUG. A name that
    comes from a file is for `recorded_bug`. Raises `BugError`, which suggests the nearest name.
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
    raise BugError(f"no bug {name!r}{hint} (see `hvfuzz bugs list`, or name a .py file)")


def recorded_bug(name: str, where: Path) -> Bug:
    """Return the planted bug called `name`, a name that was read from the file `where`; it is never read as a path.

    Raises `BugError`. Data must not choose the code that runs: a crash folder may come from anyone.
    """
    bug = known_bugs().get(name)
    if bug is None:
        shown = repr(name if len(name) <= SHOWN else name[:SHOWN] + "...")
        hint = "if you trust that file, name it with --bug" if name.endswith(".py") else "see `hvfuzz bugs list`"
        raise BugError(f"{where}: {shown} is not the name of a planted bug; {hint}")
    return bug
