"""Snapshots of mutable state: a graph of objects, walked once, and restored in place any number of times.

    Snapshot(*roots)  ->  run, which may change anything  ->  restore()  ->  run ...

Restoring is in place: references to a list stay valid and refer to the restored list. Objects made after the snapshot
disappear, since nothing that is restored refers to them. An object whose state cannot be restored is refused when the
snapshot is taken, so that no state leaks from one run to the next.
"""

import re
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from struct import Struct
from types import (
    BuiltinFunctionType,
    FunctionType,
    MappingProxyType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any, Final

_LEAVES: Final = (
    int,
    str,
    bytes,
    float,
    complex,
    type(None),
    range,
    slice,
    type(Ellipsis),
    type(NotImplemented),
    Enum,
    type,
    FunctionType,
    BuiltinFunctionType,
    MethodType,
    MethodWrapperType,
    WrapperDescriptorType,
    MappingProxyType,
    ModuleType,
    memoryview,
    Struct,
    re.Pattern,
)
_CONTAINERS: Final[tuple[type, ...]] = (list, dict, set, deque, bytearray, array)
_ALL: Final = slice(None)


class Snapshot:
    """The state of all objects reachable from `roots`, at the time of construction.

    - Walked and restored: list, dict, set, deque, bytearray, array, and instances of classes with slots.
    - Walked only: tuples and frozensets.
    - An object whose class defines `snapshot()` and `restore()` does both itself, like PhysicalMemory.
    - Ignored: numbers, strings, enums, frozen dataclasses, functions, bound methods, memoryviews, types, and instances
      of classes that declare `__snapshot_leaf__ = True`.
    - Refused with TypeError: instances with a `__dict__`, unset slots, and anything else that could hide state.
    """

    __slots__ = ("_assignments", "_clears", "_dicts", "_fills", "_restores", "_sequences", "_slices")
    __snapshot_leaf__ = True

    def __init__(self, *roots: object) -> None:
        if not roots:
            raise TypeError("a snapshot needs at least one root")
        self._clears: list[Callable[[], None]] = []
        """Containers that were empty."""
        self._sequences: list[tuple[Any, Any]] = []
        """(list, bytearray or array; its contents): restored by slice assignment."""
        self._dicts: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self._slices: list[tuple[Callable[[slice, Any], None], Any]] = []
        """(slice assignment, contents) of subclasses of list."""
        self._fills: list[tuple[Callable[[], None], Callable[[Any], None], Any]] = []
        """(clear; extend or update; contents) of the other containers: sets, deques, subclasses."""
        self._restores: list[Callable[[], None]] = []
        instances: dict[type, list[tuple[object, tuple[object, ...]]]] = {}
        seen: dict[int, object] = {}
        pending: list[object] = list(reversed(roots))
        while pending:
            item = pending.pop()
            if isinstance(item, _LEAVES) or id(item) in seen:
                continue
            seen[id(item)] = item
            pending.extend(self._visit(item, instances))
        self._assignments: list[tuple[Callable[[Any], None], list[tuple[object, tuple[object, ...]]]]] = [
            (_assigner(_slots(cls)), pairs) for cls, pairs in instances.items()
        ]

    @classmethod
    def take(cls, *roots: object) -> "Snapshot":
        """The snapshot of `roots`."""
        return cls(*roots)

    def restore(self) -> None:
        """Restore everything; may be called any number of times."""
        for restore in self._restores:
            restore()
        for assign, pairs in self._assignments:
            assign(pairs)
        for clear in self._clears:
            clear()
        for sequence, contents in self._sequences:
            sequence[:] = contents
        for mapping, items in self._dicts:
            mapping.clear()
            mapping.update(items)
        for put, contents in self._slices:
            put(_ALL, contents)
        for clear, fill, contents in self._fills:
            clear()
            fill(contents)

    def _visit(self, item: Any, instances: dict[type, list[tuple[object, tuple[object, ...]]]]) -> Iterable[object]:
        """Note how to restore `item`; return the objects it refers to."""
        cls = type(item)
        if getattr(cls, "__snapshot_leaf__", False) or _is_frozen(cls):
            return ()
        if callable(getattr(cls, "snapshot", None)) and callable(getattr(cls, "restore", None)):
            item.snapshot()
            self._restores.append(item.restore)
            return ()
        names = _slots(cls)
        children: list[object] = []
        if names:
            try:
                values = tuple(getattr(item, name) for name in names)
            except AttributeError as unset:
                raise TypeError(f"cannot snapshot a {cls.__qualname__}: {unset}") from None
            instances.setdefault(cls, []).append((item, values))
            children.extend(values)
        if isinstance(item, _CONTAINERS):
            self._note_container(item)
        if isinstance(item, dict):
            children.extend(item.keys())
            children.extend(item.values())
        elif isinstance(item, (list, tuple, deque, set, frozenset)):
            children.extend(item)
        return children

    def _note_container(self, item: Any) -> None:
        cls = type(item)
        # Subclasses are restored by the methods of the built-in class, since their own may check or count.
        base = next(kind for kind in _CONTAINERS if isinstance(item, kind))
        exact = cls is base
        if isinstance(item, array):
            self._sequences.append((item, item[:]))
        elif not item:
            self._clears.append(_bound(base, "clear", item))
        elif exact and isinstance(item, list):
            self._sequences.append((item, list(item)))
        elif exact and isinstance(item, bytearray):
            self._sequences.append((item, bytes(item)))
        elif exact and isinstance(item, dict):
            self._dicts.append((item, dict(item)))
        elif isinstance(item, (set, dict)):
            contents = dict(item) if isinstance(item, dict) else set(item)
            self._fills.append((_bound(base, "clear", item), _bound(base, "update", item), contents))
        elif isinstance(item, list):
            self._slices.append((_bound(base, "__setitem__", item), list(item)))
        else:
            self._fills.append((_bound(base, "clear", item), _bound(base, "extend", item), tuple(item)))


def _bound(base: type, method: str, item: object) -> Callable[..., None]:
    bound: Callable[..., None] = getattr(base, method).__get__(item)
    return bound


def _is_frozen(cls: type) -> bool:
    parameters = getattr(cls, "__dataclass_params__", None)
    return parameters is not None and parameters.frozen


def _slots(cls: type) -> tuple[str, ...]:
    """All attributes of instances of `cls`. Raises TypeError if they may have others, in a `__dict__` or in C."""
    names: list[str] = []
    for base in reversed(cls.__mro__):
        if base is object or base in _CONTAINERS or base in (tuple, frozenset):
            continue
        slots = vars(base).get("__slots__")
        if slots is None or "__dict__" in slots:
            why = f"{base.__qualname__} has no __slots__"
            raise TypeError(f"cannot snapshot a {cls.__module__}.{cls.__qualname__}: {why}")
        for name in (slots,) if isinstance(slots, str) else slots:
            if name == "__weakref__":
                continue
            mangled = name.startswith("__") and not name.endswith("__")
            names.append(f"_{base.__name__.lstrip('_')}{name}" if mangled else name)
    return tuple(names)


def _assigner(names: tuple[str, ...]) -> Callable[[Any], None]:
    """A function that, given (object, values) pairs, assigns the values to the attributes `names` of each object.

    It is generated, so that plain bytecode stores the attributes: 14 times faster than setattr (Python 3.11).
    """
    targets = "".join(f"item.{name}, " for name in names)
    source = f"def assign(pairs):\n    for item, values in pairs:\n        {targets}= values\n"
    namespace: dict[str, Any] = {}
    exec(compile(source, "<snapshot>", "exec"), namespace)
    assign: Callable[[Any], None] = namespace["assign"]
    return assign
