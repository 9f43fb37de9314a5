"""The text form of programs, for people to read and write: one op per line, with symbols and labels.

    # hvp 1
    world pair
    r0 = grant.create(dom1, gfn=0x40, to=dom2, rights=R|W)
    r1 = grant.map(dom2, granter=dom1, ref=r0, gfn=0x100, iova=0, flags=HOST)
    race 1: store(dom1.1, gva=DIRECT+0x10008, size=8, value=0)    # performed before fetch 1 of the next op
    grant.revoke(dom1, ref=r0) !version=9
    race before write 3: load(dom2, gva=DIRECT+0x10008, size=8)   # before the hypervisor's write number 3
    memory.decrease(dom2, first=0x10, count=1)
    race at step 0: dma(dom1, device=0)                           # at the first preemption point
    memory.protect(dom1, first=0x40, count=200, rights=R)

`race before fetch 1` is the same as `race 1`. All numbers count from 0.
An omitted field is 0 or an empty array, so old files stay valid when the ABI adds a field.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from typing import Final

from hvfuzz.abi.boot import WORLDS
from hvfuzz.abi.kinds import Kind
from hvfuzz.guest.format.op_parser import BASES, DOMAINS, OpParser
from hvfuzz.guest.format.scanner import BLANKS, Scanner, TextError, shown, unknown
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import (
    MAX_OPS,
    MAX_POINT,
    NOT_RACED,
    Mangle,
    Op,
    Point,
    Program,
    Race,
    Ref,
    Value,
    batched,
    default,
    is_array,
    points_of,
)

__all__ = ["MAGIC", "TEXT_STARTS", "VERSION", "TextError", "parse", "render", "render_op"]

MAGIC: Final = "# hvp "
VERSION: Final = 1
TEXT_STARTS: Final = (MAGIC.encode(), BOM_UTF8 + MAGIC.encode())
"""How the bytes of a program in text form begin; editors may put a byte order mark first."""
PREPOSITIONS: Final = {Point.FETCH: "", Point.WRITE: "before write ", Point.STEP: "at step "}
"""What stands before the number of a race."""
_ONE_DIGIT = 10
"""Numbers below are the same in decimal and hexadecimal."""
_DECIMAL_TO = 9999
"""Largest number in decimal; kinds of 8 bytes are in hexadecimal."""
_HEXADECIMAL = frozenset(("io_port", "msr", "leaf", "register"))
_DECIMAL = frozenset(("count", "length", "timeout"))
"""Exceptions to that rule, by name of the kind."""


# ---- text from a program


def render(program: Program) -> str:
    """The text of a well-formed program: `parse(render(program), catalogue) == program`."""
    ops = program.ops
    labelled = {value.op for op in ops for value in _refs(op)}
    lines = [f"{MAGIC}{VERSION}", f"world {WORLDS[program.world].name}"]
    inside = 0
    for index, op in enumerate(ops):
        indent = "  " if inside else ""
        inside = max(inside - 1, 0) or batched(ops, index)
        if op.race is not None:
            lines.append(f"{indent}race {PREPOSITIONS[op.race.point]}{op.race.number}: {render_op(op.race.op)}")
        label = f"r{index} = " if index in labelled or op.kind.produces is not None else ""
        lines.append(f"{indent}{label}{render_op(op)}")
    return "\n".join(lines) + "\n"


def render_op(op: Op) -> str:
    """One op on one line, without its label and its race."""
    domain, vcpu = op.actor
    parts = [f"dom{domain}.{vcpu}" if vcpu else f"dom{domain}"]
    since = op.kind.declaration.since if op.kind.declaration is not None else 1
    for field, value in zip(op.kind.fields, op.values, strict=True):
        # Fields of later ABI versions and the entries of a multicall are omitted if they have their default.
        if (field.since > since or field.kind.follow) and value == default(field):
            continue
        parts.append(f"{field.name}={_render_value(field.kind, value)}")
    text = f"{op.kind.name}({', '.join(parts)})"
    if op.mangle is not None:
        for name, part in zip(Mangle._fields, op.mangle, strict=True):
            if part is not None:
                text += f" !{name}={_render_address(part) if name == 'pointer' else part}"
    return text


def _refs(op: Op) -> list[Ref]:
    values = op.values if op.race is None else op.values + op.race.op.values
    found: list[Ref] = []
    for value in values:
        if isinstance(value, Ref):
            found.append(value)
        elif isinstance(value, tuple):
            found.extend(each for each in value if isinstance(each, Ref))
    return found


def _render_value(kind: Kind, value: Value) -> str:
    if isinstance(value, Ref):
        return f"r{value.op}"
    if isinstance(value, int):
        return _render_address(value) if is_array(kind) or kind.follow else _render_number(kind, value)
    return f"[{', '.join(_render_value(kind.element_at(at), each) for at, each in enumerate(value))}]"


def _render_number(kind: Kind, value: int) -> str:
    if kind.flags:
        names = []
        for name, bits in kind.names.items():
            if bits and value & bits == bits:
                names.append(name)
                value &= ~bits
        return "|".join((*names, hex(value)) if value else names) or "0"
    for name, number in kind.names.items():
        if number == value:
            return name
    if kind.name == "domain" and value < DOMAINS:
        return f"dom{value}"
    if kind.name == "gva":
        return _render_address(value)
    if value < _ONE_DIGIT:
        return str(value)
    wide = kind.width == 8 and kind.name not in _DECIMAL
    return hex(value) if wide or kind.name in _HEXADECIMAL or value > _DECIMAL_TO else str(value)


def _render_address(value: int) -> str:
    for name, start, end in BASES:
        if start <= value < end:
            return f"{name}+{value - start:#x}" if value > start else name
    return hex(value) if value >= _ONE_DIGIT else str(value)


# ---- a program from text


def parse(text: str, catalogue: Catalogue) -> Program:
    """The program that `text` describes. Raises TextError if it is malformed."""
    lines = text.removeprefix("\ufeff").split("\n")
    if lines[0].strip(BLANKS) != f"{MAGIC}{VERSION}":
        raise TextError(1, 1, f"expected {MAGIC + str(VERSION)!r}, found {shown(lines[0].strip(BLANKS))!r}")
    world: int | None = None
    ops: list[Op] = []
    labels: dict[str, int] = {}
    race: Race | None = None
    scanner = Scanner("", 0)
    for number, line in enumerate(lines[1:], start=2):
        scanner = Scanner(line, number)
        if scanner.at_end():
            continue
        if world is None:
            world = _parse_world(scanner)
            continue
        parser = OpParser(catalogue, world, labels, lines)
        if scanner.take(r"race\b"):
            if race is not None:
                scanner.fail("expected the raced op, found a second race")
            point = _parse_point(scanner)
            at = scanner.number(f"a {point.name.lower()} number from 0 to {MAX_POINT}", MAX_POINT)
            scanner.expect(":")
            race = Race(at, parser.op(scanner), point)
            scanner.finish()
            continue
        if len(ops) == MAX_OPS:
            scanner.fail(f"a program has at most {MAX_OPS} ops")
        label = scanner.take(r"(r[0-9]+)\s*=(?!=)")
        if label in labels:
            scanner.fail(f"label {shown(label)} is already used", start=True)
        start = scanner.position
        op = parser.op(scanner)
        scanner.finish()
        if race is not None:
            if race.point not in points_of(op.kind):
                scanner.position = start
                scanner.fail(f"'{op.kind.name}' cannot be raced there: {NOT_RACED[race.point]}")
            op = op._replace(race=race)
            race = None
        if label is not None:
            labels[label] = len(ops)
        ops.append(op)
    if world is None:
        scanner.fail("expected 'world <name>', found the end of the program")
    if race is not None:
        scanner.fail("expected the raced op, found the end of the program")
    return Program(world, tuple(ops))


def _parse_point(scanner: Scanner) -> Point:
    """`before fetch`, `before write` or `at step`; a fetch, if none of them stands there."""
    words = scanner.take(r"(?:before\s+(?:fetch|write)|at\s+step)\b")
    scanner.skip()
    return Point.FETCH if words is None else Point[words.split()[-1].upper()]


def _parse_world(scanner: Scanner) -> int:
    if scanner.take(r"world\b") is None:
        scanner.fail(f"expected 'world <name>'{scanner.found()}")
    names = {world.name: index for index, world in enumerate(WORLDS)}
    scanner.skip()
    at = scanner.position
    name = scanner.take(r"[\w.-]+")
    if name not in names:
        scanner.position = at
        scanner.fail(unknown("world", name or "", names))
    scanner.finish()
    return names[name]
