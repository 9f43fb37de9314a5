"""Declares a hypercall as a class with annotated fields, from which layouts, decoder and documentation derive."""

import dataclasses
import inspect
import keyword
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, dataclass_transform, get_args, get_type_hints

from hvfuzz.abi.kinds import kind_of
from hvfuzz.abi.layout import Field, Layout, LayoutError
from hvfuzz.abi.status import Status
from hvfuzz.abi.versions import CURRENT, MIN, VERSIONS

if sys.flags.optimize > 1:
    print("hvfuzz: Python runs with -OO or PYTHONOPTIMIZE=2, which removes the contract's text; use 1", file=sys.stderr)
    raise SystemExit(2)

__all__ = ["Call", "Declaration", "DeclarationError", "Field", "Plan", "Since", "declaration_of", "hypercall"]

T = TypeVar("T")
_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)?")


class DeclarationError(TypeError):
    """A hypercall class that breaks a rule of the ABI; the message names the class and the rule."""


@dataclasses.dataclass(frozen=True, slots=True)
class Since:
    """In an annotation: the ABI version that added the field, which is zero in older structs."""

    version: int


class Call(Protocol):
    """A decoded argument struct: an instance of its declaring class."""

    DECLARATION: ClassVar["Declaration"]

    def check(self, hv: Any, caller: Any, vcpu: Any) -> Any:
        """The effect that the call would have, or its refusal. Changes nothing."""
        ...


class Plan(NamedTuple):
    """The precomputed parts of the decoder for one call at one version."""

    size: int
    """Bytes of the struct without its header."""
    unpack: Callable[[bytes], tuple[int, ...]]
    make: Callable[..., Call]
    missing: tuple[int, ...]
    """A zero for each field that a later version appended."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Declaration:
    """One hypercall as data."""

    name: str
    number: int
    fields: tuple[Field, ...]
    doc: str
    result: str
    """Description of RDX on success; empty if it is zero."""
    produces: str | None
    """Name of the resource that the result is, which fields of other calls may consume."""
    errors: tuple[Status, ...]
    since: int
    privileged: bool
    long: bool
    """Whether the effect has preemption points."""
    call: type[Any]
    """The declaring class, whose instances are decoded arguments."""
    layouts: Mapping[int, Layout]
    """By ABI version. A version older than the call has the call's first layout."""
    plans: Mapping[int, Plan]
    """By ABI version, for `abi.decode`."""

    @property
    def family(self) -> str:
        """The first part of the name: `grant` of `grant.create`, `multicall` of `multicall`."""
        return self.name.partition(".")[0]

    def __repr__(self) -> str:
        return f"<hypercall {self.number:#x} {self.name}>"


@dataclass_transform(frozen_default=True)
def hypercall(
    number: int,
    *,
    name: str | None = None,
    result: str = "",
    produces: str | None = None,
    errors: Sequence[Status] = (),
    since: int = MIN,
    privileged: bool = False,
    long: bool = False,
) -> Callable[[type[T]], type[T]]:
    """Declare the class as hypercall `number`. Unless `name` is given, the name is module.class.

    The annotations of the class are the fields of the argument struct, in order. Its docstring is the text of ABI.md:
    first paragraphs, then a list of the call's checks, each item headed by its statuses. The class gets slots, a
    constructor, equality and `DECLARATION`. `long` calls have preemption points. Raises DeclarationError if the class
    breaks a rule of the ABI: for example, a field without a kind, or a new field before an older one.
    """

    def declare(cls: type[T]) -> type[T]:
        where = f"{cls.__module__}.{cls.__qualname__}"
        called = name if name is not None else _name(cls)
        if not _NAME.fullmatch(called):
            raise DeclarationError(f"{where}: {called!r} is not a valid name of a call (family.snake_case)")
        if not 0 <= number < 1 << 32:
            raise DeclarationError(f"{where}: number {number:#x} does not fit a u32")
        if since not in VERSIONS:
            raise DeclarationError(f"{where}: version {since} is not in {MIN}..{CURRENT}")
        if not cls.__doc__:
            raise DeclarationError(f"{where}: the docstring, which ABI.md prints, is missing")
        doc = inspect.cleandoc(cls.__doc__)
        made = dataclasses.dataclass(slots=True, unsafe_hash=True)(cls)
        fields = _fields(made, where, since)
        try:
            layouts = {version: Layout(version, _known(fields, max(version, since))) for version in VERSIONS}
        except LayoutError as error:
            raise DeclarationError(f"{where}: {error}") from error
        declaration = Declaration(
            name=called,
            number=number,
            fields=fields,
            doc=doc,
            result=result,
            produces=produces,
            errors=tuple(errors),
            since=since,
            privileged=privileged,
            long=long,
            call=made,
            layouts=MappingProxyType(layouts),
            plans={version: _plan(made, layout, len(fields)) for version, layout in layouts.items()},
        )
        made.DECLARATION = declaration  # type: ignore[attr-defined]
        return made

    return declare


def declaration_of(cls: type[Any]) -> Declaration:
    """The declaration of a hypercall class. Type checkers do not know its attribute `DECLARATION`."""
    found = vars(cls).get("DECLARATION")
    if not isinstance(found, Declaration):
        raise DeclarationError(f"{cls.__module__}.{cls.__qualname__} is not declared with @hypercall")
    return found


def family_module(module: str) -> str:
    """The module of the family that `module` belongs to: itself, or its package if that lies in `hypercalls`."""
    package = module.rpartition(".")[0]
    outer = package.rpartition(".")[0]
    return package if outer.endswith(".hypercalls") else module


def _name(cls: type[Any]) -> str:
    family = family_module(cls.__module__).rpartition(".")[2].strip("_")
    return f"{family}.{re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '_', cls.__name__).lower()}"


def _fields(cls: type[Any], where: str, since: int) -> tuple[Field, ...]:
    """The fields of a dataclass from its annotations. Raises DeclarationError if one breaks a rule of the ABI."""
    try:
        hints = get_type_hints(cls, include_extras=True)
    except NameError as error:
        raise DeclarationError(f"{where}: {error}; annotations may use global names only") from error
    fields: list[Field] = []
    for member in dataclasses.fields(cls):
        spot = f"{where}.{member.name}"
        annotation = hints[member.name]
        kind = kind_of(annotation)
        if kind is None:
            raise DeclarationError(f"{spot}: {annotation!r} has no Kind; write Annotated[int, kind]")
        added = [extra.version for extra in get_args(annotation)[1:] if isinstance(extra, Since)]
        field = Field(
            name=member.name.rstrip("_") if keyword.iskeyword(member.name.rstrip("_")) else member.name,
            kind=kind,
            since=max([since, *added]),
            default=0 if member.default is dataclasses.MISSING else member.default,
            attribute=member.name,
        )
        if field.name == "header":
            raise DeclarationError(f"{spot}: the name is reserved for the header")
        if field.since not in VERSIONS:
            raise DeclarationError(f"{spot}: version {field.since} is not in {MIN}..{CURRENT}")
        if fields and field.since < fields[-1].since:
            raise DeclarationError(f"{spot}: new fields go last, but the field before it, {fields[-1].name}, is newer")
        if not isinstance(field.default, int) or not 0 <= field.default <= kind.maximum:
            raise DeclarationError(f"{spot}: default {field.default!r} does not fit {kind.width} bytes")
        if field.default and field.since > since:
            raise DeclarationError(f"{spot}: the default of an appended field must be 0, its value in older structs")
        fields.append(field)
    return tuple(fields)


def _known(fields: Sequence[Field], version: int) -> tuple[Field, ...]:
    return tuple(field for field in fields if field.since <= version)


def _plan(cls: type[Any], layout: Layout, fields: int) -> Plan:
    return Plan(layout.body.size, layout.body.unpack, cls, (0,) * (fields - len(layout.fields)))
