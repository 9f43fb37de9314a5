"""A planted bug: one named function of the hypervisor, replaced while a program runs.

The hypervisor's source has no ``if bug``: a switch there would be a branch that rewards the fuzzer for nothing. So a
bug is a substitution from outside, put in before each run and taken out after it: a faulty build and a clean one can
live side by side in one process.
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final


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
    replaces: str
    replacement: Callable[..., Any]
    title: str = ""
    advisory: str = ""
    findings: tuple[str, ...] = ()
    difficulty: int = 0
    """How hard it is to find for a coverage-guided fuzzer, from 1 (easy) to 5; 0 if nobody has judged."""
    trigger: str = ""
    story: str = ""

    @property
    def oracle(self) -> str:
        """The oracle that must find it; empty if none is named."""
        return self.findings[0].split("/")[0] if self.findings else ""


def _parameters(function: Any) -> tuple[int, int] | None:
    """(fewest, most) positional arguments that `function` takes; None if that cannot be told."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    named = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    return sum(1 for each in named if each.default is each.empty), len(named)


class Plant:
    """The substitution of one bug; use it as a context in which the bug is there. Raises `BugError` when made.

    A function is replaced wherever a module of hvfuzz has imported it by name, or lists it in a table (a dict), too.
    """

    __slots__ = ("_original", "_places", "_replacement")

    def __init__(self, bug: Bug) -> None:
        holder, name = _resolve(bug)
        original = vars(holder)[name]
        replacement: Any = bug.replacement
        if not callable(replacement):
            raise BugError(f"{bug.name}: its replacement is not a function")
        if isinstance(original, staticmethod | classmethod):
            inner: Any = original.__func__
        else:
            inner = original
        if not isinstance(original, property):
            if not callable(inner) or isinstance(inner, type):
                raise BugError(f"{bug.name}: {bug.replaces} is not a function, and cannot be replaced")
            takes, wanted = _parameters(replacement), _parameters(inner)
            if takes is not None and wanted is not None and not takes[0] <= wanted[0] <= wanted[1] <= takes[1]:
                raise BugError(
                    f"{bug.name}: its replacement takes {takes[1]} arguments, and {bug.replaces} takes {wanted[1]}"
                )
        if inner is not original:
            replacement = type(original)(replacement)
        elif isinstance(original, property):
            replacement = property(replacement, original.fset, original.fdel)
        places = [(holder, name)]
        if inspect.ismodule(holder):
            places += _bindings(original, (holder, name))
        self._places: Final[list[tuple[Any, str]]] = places
        self._original: Final[Any] = original
        self._replacement: Final[Any] = replacement

    def __enter__(self) -> None:
        for place, key in self._places:
            _bind(place, key, self._replacement)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for place, key in self._places:
            _bind(place, key, self._original)


def _bindings(function: Any, known: tuple[Any, str]) -> Iterator[tuple[Any, Any]]:
    """(module, attribute) and (table, key) of each further binding of `function` in a module of hvfuzz.

    `from module import function` makes one, and so does an entry of a module's dict, such as the table of exits.
    """
    for module_name, module in sorted(sys.modules.items()):
        if not module_name.startswith("hvfuzz.") or module is None:
            continue
        for attribute, value in list(vars(module).items()):
            if value is function and (module, attribute) != known:
                yield module, attribute
            elif type(value) is dict and not attribute.startswith("__"):
                yield from ((value, key) for key, entry in value.items() if entry is function)


def _bind(place: Any, key: Any, value: Any) -> None:
    if type(place) is dict:
        place[key] = value
    else:
        setattr(place, key, value)


def _resolve(bug: Bug) -> tuple[Any, str]:
    """The class or module that holds what `bug` replaces, and the attribute's name."""
    module_name, _, path = bug.replaces.partition(":")
    if not path or not module_name:
        raise BugError(f"{bug.name}: replaces {bug.replaces!r}, expected 'module:Class.method' or 'module:function'")
    try:
        holder: Any = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise BugError(f"{bug.name}: no module {module_name!r} to plant it in ({error})") from error
    *parents, name = path.split(".")
    for parent in parents:
        holder = getattr(holder, parent, None)
    if holder is None or name not in getattr(holder, "__dict__", ()):
        raise BugError(f"{bug.name}: {module_name} defines no {path!r}")
    return holder, name


@contextmanager
def planted(bug: Bug | None) -> Iterator[None]:
    """Replace the function that `bug` names for the length of the block."""
    if bug is None:
        yield
        return
    with Plant(bug):
        yield
