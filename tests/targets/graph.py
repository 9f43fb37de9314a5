"""The graph of all objects reachable from some roots, as a list of lines; an independent check of the snapshot's walk.

It shares no code with `machine/snapshot.py`, and also enters `__dict__`s, closures, defaults of functions, class
attributes and the globals of modules. An object that it cannot enter raises a TypeError.
"""

import hashlib
import re
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from enum import Enum
from functools import partial
from mmap import mmap
from operator import attrgetter, itemgetter
from pathlib import PurePath
from random import Random
from struct import Struct
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any, NamedTuple

Item = tuple[str, object]
"""(label of the reference in the containing object, the object)."""

_GETTERS = (attrgetter, itemgetter)
_VALUES = (int, str, bytes, float, complex, type(None), range, slice, Enum, Struct, re.Pattern, PurePath, *_GETTERS)
_CODE = (
    BuiltinFunctionType,
    CodeType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodWrapperType,
    WrapperDescriptorType,
)
_IMMUTABLE = 1 << 8
"""Bit of `__flags__`: the class is written in C (Py_TPFLAGS_IMMUTABLETYPE)."""
_SPECIAL = ("typing", "_collections", "types", "_abc", "__future__", "weakref", "collections.abc", "abc", "signal")
"""Modules whose objects describe code, and hold no state."""


class Line(NamedTuple):
    """An object, or another reference to it."""

    parent: int
    """Index of the line of the containing object; -1 for a root."""
    label: str
    what: object


class CannotWalk(TypeError):
    """The walk cannot enter an object."""


def state_lines(
    roots: Iterable[Item],
    package: str,
    *,
    beyond: tuple[str, ...] = (),
    ignored: frozenset[tuple[str, str]] = frozenset(),
    ordered: bool = True,
) -> list[Line]:
    """The graph reachable from `roots`, in a fixed order; equal lists mean equal states.

    Code is walked only if it belongs to `package`. Instances of classes defined in modules `beyond` are named but not
    entered; (class, attribute) pairs in `ignored` are left out. The order of dicts is compared if `ordered`. Mutable
    objects are identified by the order in which they are reached, immutable ones by their value.
    """
    return list(_Walk(package, beyond, ignored, ordered).lines(roots))


def path_of(lines: list[Line], number: int) -> str:
    """The path from the root to a line."""
    labels = []
    while number >= 0:
        labels.append(lines[number].label)
        number = lines[number].parent
    return "".join(reversed(labels))


def first_difference(before: list[Line], after: list[Line]) -> str | None:
    """The first difference between two states as text, or None."""
    if before == after:
        return None
    for number, (old, new) in enumerate(zip(before, after, strict=False)):
        if old != new:
            return f"{path_of(before, number)}: {old.what!r} before, {path_of(after, number)}: {new.what!r} after"
    longer = before if len(before) > len(after) else after
    return f"{path_of(longer, min(len(before), len(after)))} is in one state only"


class _Walk:
    def __init__(
        self, package: str, beyond: tuple[str, ...], ignored: frozenset[tuple[str, str]], ordered: bool
    ) -> None:
        self._package = package
        self._beyond = beyond
        self._ordered = ordered
        self._ignored = ignored
        self._names: dict[type, tuple[str, ...]] = {}

    def lines(self, roots: Iterable[Item]) -> Iterator[Line]:
        seen: dict[int, int] = {}
        keep: list[object] = []
        number = -1
        pending = [(-1, label, item) for label, item in roots]
        pending.reverse()
        while pending:
            parent, label, item = pending.pop()
            number += 1
            if isinstance(item, _VALUES):
                yield Line(parent, label, _value(item))
                continue
            if not isinstance(item, (tuple, frozenset)):
                if id(item) in seen:
                    yield Line(parent, label, ("line", seen[id(item)]))
                    continue
                seen[id(item)] = number
                keep.append(item)
            what, children = self._look(item)
            yield Line(parent, label, what)
            pending.extend((number, label, child) for label, child in reversed(children))

    def _ours(self, module: object) -> bool:
        return isinstance(module, str) and (module + ".").startswith(self._package + ".")

    def _look(self, item: Any) -> tuple[object, list[Item]]:
        """(content of an object itself, the objects that it refers to)."""
        cls = type(item)
        name = f"{cls.__module__}.{cls.__qualname__}"
        if isinstance(item, ModuleType):
            ours = self._ours(item.__name__)
            return item.__name__, _without_dunders(vars(item)) if ours else []
        if isinstance(item, type):
            name = f"{item.__module__}.{item.__qualname__}"
            return name, _without_dunders(vars(item)) if self._ours(item.__module__) else []
        if isinstance(item, FunctionType):
            return item.__qualname__, self._function(item) if self._ours(item.__module__) else []
        if isinstance(item, BuiltinFunctionType) and not isinstance(item.__self__, (ModuleType, type, type(None))):
            return item.__qualname__, [(".__self__", item.__self__)]
        if cls.__module__.startswith(self._beyond):
            return name, []
        if isinstance(item, _CODE) or cls.__module__ in _SPECIAL:
            return name, []
        if hasattr(item, "cache_info"):  # a cache of a pure function
            return name, [(".__wrapped__", item.__wrapped__)]
        children = [
            (f".{attribute}", getattr(item, attribute, _UNSET))
            for attribute in self._members(cls)
            if (cls.__qualname__, attribute) not in self._ignored
        ]
        for attribute, value in getattr(item, "__dict__", {}).items():
            if (cls.__qualname__, attribute) not in self._ignored:
                children.append((f".{attribute}", value))
        what, inside = _contents(item, self._ordered)
        if what is None and not _is_transparent(cls):
            raise CannotWalk(f"cannot enter a {name}")
        return (name, what), children + inside

    def _members(self, cls: type) -> tuple[str, ...]:
        names = self._names.get(cls)
        if names is None:
            names = tuple(
                name
                for base in reversed(cls.__mro__)
                for name, member in vars(base).items()
                if isinstance(member, MemberDescriptorType)
            )
            self._names[cls] = names
        return names

    @staticmethod
    def _function(item: FunctionType) -> list[Item]:
        cells = [
            (f".<{name}>", cell.cell_contents)
            for name, cell in zip(item.__code__.co_freevars, item.__closure__ or (), strict=True)
            if cell != type(cell)()
        ]
        return [*cells, (".__defaults__", item.__defaults__), (".__kwdefaults__", item.__kwdefaults__)] + [
            (f".{name}", value) for name, value in vars(item).items() if name != "__wrapped__"
        ]


class _Unset:
    __slots__ = ()


_UNSET = _Unset()


def _value(item: object) -> object:
    if isinstance(item, _GETTERS):
        return repr(item)
    if isinstance(item, (Struct, re.Pattern)):
        return type(item).__name__, item.format if isinstance(item, Struct) else item.pattern
    return type(item).__name__, item


def _without_dunders(names: Any) -> list[Item]:
    return [(f".{name}", value) for name, value in names.items() if not name.startswith("__")]


def _is_transparent(cls: type) -> bool:
    """Whether slots and `__dict__` hold all state of instances, because no base class is written in C."""
    return all(
        base is object or ("__module__" in vars(base) and not base.__flags__ & _IMMUTABLE) for base in cls.__mro__
    )


def _contents(item: Any, ordered: bool) -> tuple[object, list[Item]]:
    """(content, children) of a container or another object written in C; (None, []) for any other object."""
    if isinstance(item, (list, tuple, deque)):
        return len(item), [(f"[{index}]", value) for index, value in enumerate(item)]
    if isinstance(item, (dict, MappingProxyType)):
        order = list(item) if ordered else sorted(item, key=repr)
        keys = [(f".key[{index}]", key) for index, key in enumerate(order)]
        return len(item), [*keys, *((f"[{key!r:.60}]", item[key]) for key in order)]
    if isinstance(item, (set, frozenset)):
        return len(item), [(f"{{{index}}}", value) for index, value in enumerate(sorted(item, key=repr))]
    if isinstance(item, (bytearray, array)):
        return bytes(item), []
    if isinstance(item, mmap):
        return hashlib.sha256(memoryview(item)).hexdigest(), []
    if isinstance(item, memoryview):
        return (item.format, item.nbytes), [(".obj", item.obj)]
    if isinstance(item, MethodType):
        return item.__qualname__, [(".__self__", item.__self__), (".__func__", item.__func__)]
    if isinstance(item, BuiltinFunctionType):
        return item.__qualname__, [(".__self__", item.__self__)]
    if isinstance(item, partial):
        return "partial", [(".func", item.func), (".args", item.args), (".keywords", item.keywords)]
    if isinstance(item, (property, classmethod, staticmethod)):
        inner = item.fget if isinstance(item, property) else item.__func__
        return "wraps", [(".__func__", inner)]
    if isinstance(item, Random):
        return item.getstate(), []
    if isinstance(item, AbstractContextManager):
        return "context", []
    return None, []
