"""A libFuzzer dictionary (option -dict) for the byte form: opcodes, symbols and edges as byte strings."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hvfuzz.abi.kinds import Kind
from hvfuzz.guest.program.ops import Catalogue, OpKind


def dictionary(catalogue: Catalogue) -> str:
    """The text of the dictionary: opcodes, then symbols and edges of every kind of argument, each byte string once.

    libFuzzer cannot learn these values from comparisons: the hypervisor looks them up in Python dicts.
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
    # Symbols first: an edge with a symbol is named after it.
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
