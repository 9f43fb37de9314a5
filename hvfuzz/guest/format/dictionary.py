"""A libFuzzer dictionary (its -dict option) of the byte strings that mean something in the byte form of programs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hvfuzz.abi.kinds import Kind
from hvfuzz.guest.program.ops import Catalogue, OpKind


def dictionary(catalogue: Catalogue) -> str:
    """The dictionary's text: opcodes, then symbols and edges of every kind of argument, each byte string once.

    Compares of the hypervisor are mostly invisible to the engine (dictionary look-ups, tables), so that what is
    compared with has to be given: call numbers, ports, registers, limits.
    """
    lines = ["# The byte form of guest programs: opcodes, symbols, edges."]
    seen: set[bytes] = set()
    for name, data in _entries(catalogue):
        if data not in seen:
            seen.add(data)
            escaped = "".join(f"\\x{byte:02x}" for byte in data)
            lines.append(f'{name}="{escaped}"')
    return "\n".join(lines) + "\n"


def _entries(catalogue: Catalogue) -> Iterator[tuple[str, bytes]]:
    for op in catalogue.kinds:
        yield _name("op", op.name), bytes((op.code,))
    kinds = tuple(_kinds(catalogue.kinds))
    # An edge that is a symbol, too, is called by that.
    for kind in kinds:
        for symbol, number in kind.names.items():
            yield _name(kind.name, symbol), number.to_bytes(kind.width, "little")
    for kind in kinds:
        for number in kind.edges:
            yield _name(kind.name, f"{number:x}"), number.to_bytes(kind.width, "little")


def _kinds(ops: tuple[OpKind, ...]) -> Iterator[Kind]:
    for op in ops:
        for field in op.fields:
            kind = field.kind
            yield kind
            if kind.element is not None:
                yield from (*kind.head, *kind.record, kind.element)


def _name(*parts: str) -> str:
    return re.sub(r"\W", "_", "_".join(parts))
