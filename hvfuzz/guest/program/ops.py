"""The kinds of ops: the hypercalls of an ABI, and the instructions that a guest can execute."""

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
from hvfuzz.guest.program.instruction_kinds import instruction_kinds

INSTRUCTION_CODES: Final = 0x80
"""Opcode byte of the first instruction; the opcode byte of a hypercall is its number, which is lower."""


@dataclass(frozen=True, slots=True, eq=False)
class OpKind:
    """One kind of op. Kinds are compared by identity: each belongs to one catalogue."""

    name: str
    code: int
    """Opcode byte in the byte form."""
    family: str
    fields: tuple[Field, ...]
    produces: str | None
    """The resource that its result is; None if no op takes the result."""
    number: int | None
    """The number of a hypercall (RAX); None for an instruction."""
    declaration: Declaration | None
    doc: str
    fetches: bool
    """Whether guest memory is fetched in some run of the op (see `machine/fetches.py`)."""
    writes: bool
    """Whether the hypervisor writes to memory in some run of the op (see `machine/raced_writes.py`)."""
    executed: bool
    """Whether its vCPU executes it, which must be able to run then; else it happens without any vCPU."""
    index: Mapping[str, int] = field(init=False)
    """Position of each field by name."""
    follow: int | None = field(init=False)
    """Position of the field with the entries of a multicall, for which the next ops can stand; None without one."""
    long: bool = field(init=False)
    """Whether it has preemption points in some run."""
    consumes: bool = field(init=False)
    """Whether any of its arguments can refer to the result of an earlier op."""

    def __post_init__(self) -> None:
        positions = {each.name: position for position, each in enumerate(self.fields)}
        follow = next((i for i, each in enumerate(self.fields) if each.kind.follow), None)
        object.__setattr__(self, "index", MappingProxyType(positions))
        object.__setattr__(self, "follow", follow)
        object.__setattr__(self, "long", self.declaration is not None and self.declaration.long)
        object.__setattr__(self, "consumes", any(_consumes(each.kind) for each in self.fields))

    def __repr__(self) -> str:
        return f"<{self.name}>"


def _consumes(kind: Kind) -> bool:
    if kind.consumes is not None:
        return True
    return kind.element is not None and any(map(_consumes, (kind.element, *kind.head, *kind.record)))


class Catalogue:
    """All kinds of ops over one ABI, in the order of their opcodes."""

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
        """By resource: the kinds whose result it is."""
        if len(self.by_name) != len(self.kinds) or len(self.by_code) != len(self.kinds):
            raise ValueError("two kinds of ops have the same name or opcode")


@lru_cache(maxsize=8)
def catalogue(abi: Abi) -> Catalogue:
    """The kinds of ops over `abi`; the same object for the same ABI, so that programs over it can be compared."""
    kinds = []
    for call in abi.calls:
        if not 0 <= call.number < INSTRUCTION_CODES:
            raise ValueError(f"{call.name}: call number {call.number:#x} is not below {INSTRUCTION_CODES:#x}")
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
                writes=True,
                executed=True,
            )
        )
    numbers = Kind(
        "call_number",
        8,
        (*(call.number for call in abi.calls), 0, 0x7F, 0xFFFF_FFFF, (1 << 64) - 1),
        names=MappingProxyType({call.name: call.number for call in abi.calls}),
    )
    for offset, each in enumerate(instruction_kinds(numbers, abi.device_models)):
        kinds.append(
            OpKind(
                name=each.name,
                code=INSTRUCTION_CODES + offset,
                family=each.family,
                fields=tuple(Field(name=name, kind=kind) for name, kind in each.fields.items()),
                produces=None,
                number=None,
                declaration=None,
                doc=each.doc,
                fetches=each.fetches,
                writes=each.writes,
                executed=each.executed,
            )
        )
    return Catalogue(sorted(kinds, key=lambda kind: kind.code))
