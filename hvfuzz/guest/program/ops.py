"""The kinds of ops there are: every hypercall of an ABI, and the instructions that a guest can execute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from hvfuzz.abi.declaration import Declaration
from hvfuzz.abi.kinds import Kind
from hvfuzz.abi.layout import Field
from hvfuzz.abi.registry import Abi
from hvfuzz.guest.program.instruction_kinds import FETCHING_INSTRUCTIONS, instruction_kinds

INSTRUCTION_CODES: Final = 0x80
"""First opcode byte of the instructions; below, the opcode byte of a hypercall is its number."""


@dataclass(frozen=True, slots=True, eq=False)
class OpKind:
    """One kind of op. Two kinds are the same only if they are one object of one catalogue."""

    name: str
    code: int
    """Opcode byte of the byte form."""
    family: str
    fields: tuple[Field, ...]
    produces: str | None
    """Resource that its result is, if it succeeds."""
    number: int | None
    """RAX of a hypercall; None for an instruction."""
    declaration: Declaration | None
    doc: str
    fetches: bool
    """Whether the hypervisor reads guest memory for it, so that it can be raced."""
    index: Mapping[str, int] = field(init=False)
    """Position of each field by name."""
    follow: int | None = field(init=False)
    """Position of the field that batches the ops which follow, if there is one."""
    consumes: bool = field(init=False)
    """Whether any of its arguments may be the result of an earlier op."""

    def __post_init__(self) -> None:
        positions = {each.name: position for position, each in enumerate(self.fields)}
        follow = next((i for i, each in enumerate(self.fields) if each.kind.follow), None)
        object.__setattr__(self, "index", MappingProxyType(positions))
        object.__setattr__(self, "follow", follow)
        object.__setattr__(self, "consumes", any(_consumes(each.kind) for each in self.fields))

    def __repr__(self) -> str:
        return f"<{self.name}>"


def _consumes(kind: Kind) -> bool:
    if kind.consumes is not None:
        return True
    return kind.element is not None and any(map(_consumes, (kind.element, *kind.head, *kind.record)))


class Catalogue:
    """All kinds of ops over one ABI: hypercalls by number, then instructions by code."""

    __slots__ = ("by_code", "by_name", "kinds", "producers")

    def __init__(self, kinds: Iterable[OpKind]) -> None:
        self.kinds: Final = tuple(kinds)
        self.by_name: Final = {kind.name: kind for kind in self.kinds}
        self.by_code: Final = {kind.code: kind for kind in self.kinds}
        producers: dict[str, tuple[OpKind, ...]] = {}
        for kind in self.kinds:
            if kind.produces is not None:
                producers[kind.produces] = (*producers.get(kind.produces, ()), kind)
        self.producers: Final = producers
        """The kinds whose result is a given resource."""
        if len(self.by_name) != len(self.kinds) or len(self.by_code) != len(self.kinds):
            raise ValueError("two kinds of ops share a name or a code")


@lru_cache(maxsize=8)
def catalogue(abi: Abi) -> Catalogue:
    """The kinds of ops over `abi`: the same object for the same ABI, so that programs over it compare."""
    kinds = []
    for call in abi.calls:
        if not 0 <= call.number < INSTRUCTION_CODES:
            raise ValueError(f"{call.name}: its number {call.number:#x} is no opcode byte of a hypercall")
        kinds.append(
            OpKind(
                name=call.name,
                code=call.number,
                family=call.name.partition(".")[0],
                fields=tuple(call.fields),
                produces=call.produces,
                number=call.number,
                declaration=call,
                doc=call.doc,
                fetches=True,
            )
        )
    numbers = Kind(
        "call_number",
        8,
        (*(call.number for call in abi.calls), 0, 0x7F, 0xFFFF_FFFF, (1 << 64) - 1),
        names=MappingProxyType({call.name: call.number for call in abi.calls}),
    )
    for offset, (name, family, doc, fields) in enumerate(instruction_kinds(numbers)):
        kinds.append(
            OpKind(
                name=name,
                code=INSTRUCTION_CODES + offset,
                family=family,
                fields=tuple(Field(name=each, kind=kind) for each, kind in fields.items()),
                produces=None,
                number=None,
                declaration=None,
                doc=doc,
                fetches=family == "raw" or name in FETCHING_INSTRUCTIONS,
            )
        )
    return Catalogue(sorted(kinds, key=lambda kind: kind.code))
