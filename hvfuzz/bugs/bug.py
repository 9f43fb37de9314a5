"""A planted bug: one function of the hypervisor, replaced while a program runs.

The hypervisor's source contains no ``if bug``, since such a branch would reward a coverage-guided fuzzer. A bug is
substituted from outside instead, before each run, and removed after it. So a faulty build and the clean one can exist
side by side in one process.
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
    """A bug that cannot be loaded or planted. The message names the bug or its file."""


@dataclass(frozen=True)
class Bug:
    """One planted vulnerability.

    `replaces` is ``package.module:Class.method`` or ``package.module:function``, and `replacement` takes the same
    arguments. `trigger` is the shortest program (text form) that shows the bug. `findings` are all the findings of that
    program, as ``oracle/rule/operation``; the bug demonstrates the oracle of the first. `story` describes the bug for
    people: the cause given in the advisory, and what is simplified or scaled down here.
    """

    name: str
    replaces: str
    replacement: Callable[..., Any]
    title: str = ""
    advisory: str = ""
    findings: tuple[str, ...] = ()
    difficulty: int = 0
    """How hard it is to find for a coverage-guided fuzzer, from 1 (easy) to 5; 0 if unrated."""
    trigger: str = ""
    story: str = ""

    def __post_init__(self) -> None:
        """Check the types, since a bug file is a user's. Raises TypeError or ValueError, which name the field."""
        for name in ("name", "replaces", "title", "advisory", "trigger", "story"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name} is not a string")
        if not self.name:
            raise ValueError("name is empty")
        if not isinstance(self.difficulty, int):
            raise TypeError("difficulty is not a whole number")
        if not isinstance(self.findings, tuple) or not all(isinstance(each, str) for each in self.findings):
            raise TypeError("findings is not a tuple of strings")

    @property
    def oracle(self) -> str:
        """The oracle that the bug demonstrates; "" if `findings` is empty."""
        return self.findings[0].split("/")[0] if self.findings else ""


def _parameters(function: Any) -> tuple[int, int] | None:
    """(minimum, maximum) number of positional arguments of `function`; None if unknown or unlimited."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    named = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    return sum(1 for each in named if each.default is each.empty), len(named)


class Plant:
    """Context in which a bug is planted. The constructor raises `BugError` if it cannot be.

    A function is also replaced in every hvfuzz module that has imported it by name or lists it in a table (a dict).
    """

    __slots__ = ("_original", "_places", "_replacement")

    def __init__(self, bug: Bug) -> None:
        holder, name = _resolve(bug)
        original = vars(holder)[name]
        replacement: Any = bug.replacement
        if not callable(replacement):
            raise BugError(f"{bug.name}: the replacement is not a function")
        if isinstance(original, staticmethod | classmethod):
            inner: Any = original.__func__
        else:
            inner = original
        if not isinstance(original, property):
            if not callable(inner) or isinstance(inner, type):
                raise BugError(f"{bug.name}: {bug.replaces} is not a function")
            takes, wanted = _parameters(replacement), _parameters(inner)
            if takes is not None and wanted is not None and not takes[0] <= wanted[0] <= wanted[1] <= takes[1]:
                raise BugError(
                    f"{bug.name}: the replacement takes {takes[1]} arguments, but {bug.replaces} takes {wanted[1]}"
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
    """Find the class or module that holds the function `bug` replaces, and the function's name in it."""
    module_name, _, path = bug.replaces.partition(":")
    if not path or not module_name:
        raise BugError(f"{bug.name}: replaces {bug.replaces!r}; expected 'module:Class.method' or 'module:function'")
    try:
        holder: Any = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise BugError(f"{bug.name}: replaces {bug.replaces!r}, but there is no module {module_name!r}") from error
    *parents, name = path.split(".")
    for parent in parents:
        holder = getattr(holder, parent, None)
    if holder is None or name not in getattr(holder, "__dict__", ()):
        raise BugError(f"{bug.name}: replaces {bug.replaces!r}, but {module_name} defines no {path!r}")
    return holder, name


@contextmanager
def planted(bug: Bug | None) -> Iterator[None]:
    """Plant `bug` for the length of the block; None plants nothing."""
    if bug is None:
        yield
        return
    with Plant(bug):
        yield
