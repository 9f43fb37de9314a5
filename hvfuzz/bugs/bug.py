"""A planted bug: one named function of the hypervisor, replaced while a target lives.

The hypervisor's source has no ``if bug``: a switch there would be a branch that rewards the fuzzer for
nothing. So a bug is a substitution from outside, made before the target is built and undone afterwards.
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


class BugError(Exception):
    """A bug that cannot be loaded or planted: what is wrong, and in which bug."""


@dataclass(frozen=True)
class Bug:
    """One vulnerability of the ground truth.

    `replaces` is ``package.module:Class.method`` or ``package.module:function``; `replacement` takes the same
    arguments. `trigger` is the shortest program (text form) that shows it, and `findings` all that this program must
    give, as ``oracle/rule/operation``: the oracle of the first is the one that the bug is there for. `story` is the
    text for people: the advisory's true cause, and what is simplified or scaled down here.
    """

    name: str
    advisory: str
    title: str
    replaces: str
    replacement: Callable[..., Any]
    findings: tuple[str, ...]
    difficulty: int
    trigger: str
    story: str

    @property
    def oracle(self) -> str:
        """The oracle that must find it."""
        return self.findings[0].split("/")[0]


def _resolve(bug: Bug) -> tuple[Any, str]:
    """The class or module that holds what `bug` replaces, and the attribute's name."""
    module_name, _, path = bug.replaces.partition(":")
    if not path:
        raise BugError(f"{bug.name}: replaces {bug.replaces!r}, expected 'module:Class.method' or 'module:function'")
    try:
        holder: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise BugError(f"{bug.name}: no module {module_name!r} to plant it in ({error})") from error
    *parents, name = path.split(".")
    for parent in parents:
        holder = getattr(holder, parent, None)
    if holder is None or name not in vars(holder):
        raise BugError(f"{bug.name}: {module_name} defines no {path!r}")
    return holder, name


@contextmanager
def planted(bug: Bug | None) -> Iterator[None]:
    """Replace the function that `bug` names, everywhere it is bound, for the length of the block."""
    if bug is None:
        yield
        return
    holder, name = _resolve(bug)
    original = vars(holder)[name]
    replacement: Any = bug.replacement
    if isinstance(original, staticmethod | classmethod):
        replacement = type(original)(replacement)
    places = [(holder, name)]
    if inspect.ismodule(holder):
        # `from module import function` binds the function a second time: those must change with it.
        places += [
            (module, attribute)
            for module_name, module in sorted(sys.modules.items())
            if module_name.startswith("hvfuzz.") and module is not holder and module is not None
            for attribute, value in list(vars(module).items())
            if value is original
        ]
    for place, attribute in places:
        setattr(place, attribute, replacement)
    try:
        yield
    finally:
        for place, attribute in places:
            setattr(place, attribute, original)
