"""Collects the declared calls of some modules into one ABI. Importing a module registers nothing."""

import sys
from collections.abc import Iterable
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple

from hvfuzz.abi.declaration import Declaration, family_module
from hvfuzz.abi.device_models import Placement


class AbiError(ValueError):
    """Declarations that conflict; the message names the calls and their modules."""


class Family(NamedTuple):
    """The calls of one name prefix, in the order of their numbers. `doc` is the docstring of their module."""

    name: str
    doc: str
    calls: tuple[Declaration, ...]


class Abi:
    """All calls, in the order of their numbers. Numbers and names are unique.

    `families` are modules, which contribute every hypercall class that they define, or single classes.
    Raises AbiError if two calls share a number or name, and for a module or class without a declaration.
    """

    __slots__ = ("by_name", "by_number", "calls", "device_models", "families", "producers")

    def __init__(self, families: Iterable[ModuleType | type[Any]], device_models: Iterable[Placement] = ()) -> None:
        self.device_models = tuple(device_models)
        """Where a guest finds the device models of its domain."""
        calls = [call for family in families for call in _declarations(family)]
        numbers: dict[int, Declaration] = {}
        names: dict[str, Declaration] = {}
        for call in sorted(calls, key=lambda call: call.number):
            if call.number in numbers:
                raise AbiError(f"number {call.number:#x} is both {_where(numbers[call.number])} and {_where(call)}")
            if call.name in names:
                raise AbiError(f"name {call.name} is both {_where(names[call.name])} and {_where(call)}")
            numbers[call.number] = call
            names[call.name] = call
        self.calls = tuple(numbers.values())
        self.by_number = MappingProxyType(numbers)
        self.by_name = MappingProxyType(names)
        self.families = _families(self.calls)
        producers: dict[str, tuple[Declaration, ...]] = {}
        for call in self.calls:
            if call.produces is not None:
                producers[call.produces] = (*producers.get(call.produces, ()), call)
        self.producers = MappingProxyType(producers)
        """Name of a resource -> the calls whose result it is."""


def _declarations(family: ModuleType | type[Any]) -> list[Declaration]:
    if isinstance(family, type):
        found = [vars(family).get("DECLARATION")]
    else:
        # A class that the module imports belongs to the family of the module that defines it.
        found = [
            vars(member).get("DECLARATION")
            for member in vars(family).values()
            if isinstance(member, type) and family_module(member.__module__) == family.__name__
        ]
    declarations = [each for each in found if isinstance(each, Declaration)]
    if not declarations:
        raise AbiError(f"{family.__name__} declares no hypercall")
    return declarations


def _families(calls: Iterable[Declaration]) -> tuple[Family, ...]:
    grouped: dict[str, list[Declaration]] = {}
    for call in calls:
        grouped.setdefault(call.family, []).append(call)
    return tuple(Family(name, _doc(members[0]), tuple(members)) for name, members in grouped.items())


def _doc(member: Declaration) -> str:
    """The docstring of the family's module."""
    module = sys.modules.get(family_module(member.call.__module__))
    return getattr(module, "__doc__", None) or ""


def _where(call: Declaration) -> str:
    return f"{call.name} ({call.call.__module__}.{call.call.__qualname__})"
