"""The text form of programs, for people: one op a line, symbols for numbers, labels for results.

    # hvp 1
    world pair
    r0 = grant.create(dom1, gfn=0x40, to=dom2, rights=R|W)
    r1 = grant.map(dom2, granter=dom1, ref=r0, gfn=0x100, iova=0, flags=HOST)
    race 1: store(dom1.1, gva=DIRECT+0x10008, size=8, value=0)    # performed before fetch 1 of the next op
    grant.revoke(dom1, ref=r0) !version=9

A field that is left out is 0, or an empty array: old files stay valid when the ABI appends a field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final, NoReturn

from hvfuzz.abi.boot import DIRECT_MAP, HYPERVISOR_HOLE_END, HYPERVISOR_HOLE_START, WORLDS
from hvfuzz.abi.kinds import Kind
from hvfuzz.guest.ops import Catalogue, OpKind
from hvfuzz.guest.program import (
    MANGLE_BITS,
    MAX_ELEMENTS,
    MAX_FETCH,
    MAX_OPS,
    Actor,
    Mangle,
    Op,
    Program,
    Race,
    Ref,
    Value,
    batched,
    default,
    is_array,
)

MAGIC: Final = "# hvp "
VERSION: Final = 1
BASES: Final = (
    ("DIRECT", DIRECT_MAP, DIRECT_MAP + (1 << 32)),
    ("HOLE", HYPERVISOR_HOLE_START, HYPERVISOR_HOLE_END),
)
"""Addresses that are written as an offset from a name: the kernel's direct map, the hypervisor's hole."""
_HEXADECIMAL_FROM = 10
"""Numbers of addresses and words are hexadecimal from here on; below, both ways read the same."""
_DECIMAL_TO = 9999
"""Other numbers are decimal up to here."""
_DOMAINS: Final = max(len(world.domains) for world in WORLDS)
_HEXADECIMAL = frozenset(("gfn", "iova", "io_port", "msr", "leaf", "register", "call_number"))


class TextError(ValueError):
    """The text is not a program; `line` and `column` count from 1."""

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(f"line {line}, column {column}: {message}")
        self.line = line
        self.column = column
        self.message = message


# ---- text from a program


def render(program: Program) -> str:
    """The text of `program`: `parse(render(program), catalogue) == program`."""
    ops = program.ops
    labelled = {value.op for op in ops for value in _refs(op)}
    lines = [f"{MAGIC}{VERSION}", f"world {WORLDS[program.world].name}"]
    inside = 0
    for index, op in enumerate(ops):
        indent = "  " if inside else ""
        inside = max(inside - 1, 0) or batched(ops, index)
        if op.race is not None:
            lines.append(f"{indent}race {op.race.fetch}: {render_op(op.race.op)}")
        label = f"r{index} = " if index in labelled or op.kind.produces is not None else ""
        lines.append(f"{indent}{label}{render_op(op)}")
    return "\n".join(lines) + "\n"


def render_op(op: Op) -> str:
    """One op on one line, without label and race."""
    domain, vcpu = op.actor
    parts = [f"dom{domain}.{vcpu}" if vcpu else f"dom{domain}"]
    since = op.kind.declaration.since if op.kind.declaration is not None else 1
    for field, value in zip(op.kind.fields, op.values, strict=True):
        # What later versions added to the call, and the batch of a multicall, only show where they matter.
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
    element = kind.element
    assert element is not None
    return f"[{', '.join(_render_value(element, each) for each in value)}]"


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
    if kind.name == "domain" and value < _DOMAINS:
        return f"dom{value}"
    if kind.name == "gva":
        return _render_address(value)
    if value < _HEXADECIMAL_FROM:
        return str(value)
    return hex(value) if kind.width == 8 or kind.name in _HEXADECIMAL or value > _DECIMAL_TO else str(value)


def _render_address(value: int) -> str:
    for name, start, end in BASES:
        if start <= value < end:
            return f"{name}+{value - start:#x}" if value > start else name
    return hex(value) if value >= _HEXADECIMAL_FROM else str(value)


# ---- a program from text


def parse(text: str, catalogue: Catalogue) -> Program:
    """The program that `text` says; raises TextError where it says none."""
    lines = text.split("\n")
    if lines[0].strip() != f"{MAGIC}{VERSION}":
        raise TextError(1, 1, f"expected {MAGIC + str(VERSION)!r}")
    world: int | None = None
    ops: list[Op] = []
    labels: dict[str, int] = {}
    race: tuple[int, Op] | None = None
    scanner = _Scanner("", 0)
    for number, line in enumerate(lines[1:], start=2):
        scanner = _Scanner(line, number)
        if scanner.at_end():
            continue
        if world is None:
            world = _parse_world(scanner)
            continue
        operands = _Operands(catalogue, world, labels, lines)
        if scanner.take(r"race\b"):
            if race is not None:
                scanner.fail("expected the op that is raced: the line before is a race already")
            scanner.skip()
            fetch = scanner.number(f"a fetch number from 0 to {MAX_FETCH}", MAX_FETCH)
            scanner.expect(":")
            race = fetch, operands.op(scanner)
            scanner.finish()
            continue
        if len(ops) == MAX_OPS:
            scanner.fail(f"a program has at most {MAX_OPS} ops")
        label = scanner.take(r"(r\d+)\s*=(?!=)")
        if label in labels:
            scanner.fail(f"{label} is the result of an earlier op already", start=True)
        start = scanner.position
        op = operands.op(scanner)
        scanner.finish()
        if race is not None:
            if not op.kind.fetches:
                scanner.position = start
                scanner.fail(f"'{op.kind.name}' fetches no guest memory, so nothing can race it")
            op = op._replace(race=Race(*race))
            race = None
        if label is not None:
            labels[label] = len(ops)
        ops.append(op)
    if world is None:
        scanner.fail("expected 'world <name>'")
    if race is not None:
        scanner.fail("expected the op that is raced")
    return Program(world, tuple(ops))


def _parse_world(scanner: _Scanner) -> int:
    if scanner.take(r"world\b") is None:
        scanner.fail("expected 'world <name>'")
    names = {world.name: index for index, world in enumerate(WORLDS)}
    scanner.skip()
    at = scanner.position
    name = scanner.take(r"[\w.-]+")
    if name not in names:
        scanner.position = at
        scanner.fail(_unknown("world", name or "", names))
    scanner.finish()
    return names[name]


def _unknown(what: str, name: str, known: Mapping[str, object]) -> str:
    close = get_close_matches(name, known, n=1)
    if close:
        return f"unknown {what} '{name}' - did you mean '{close[0]}'?"
    return f"unknown {what} '{name}'" + (f": expected {', '.join(known)}" if 0 < len(known) <= 16 else "")


class _Scanner:
    """What is left of one line."""

    __slots__ = ("line", "position", "start", "text")

    def __init__(self, text: str, line: int) -> None:
        self.text = text.partition("#")[0].rstrip()
        self.line = line
        self.position = self.start = 0
        self.skip()

    def skip(self) -> None:
        text, position = self.text, self.position
        while position < len(text) and text[position].isspace():
            position += 1
        self.position = position

    def at_end(self) -> bool:
        return self.position >= len(self.text)

    def take(self, pattern: str) -> str | None:
        """The text that `pattern` matches here (its first group, if it has one), passed over; or None."""
        self.skip()
        match = re.compile(pattern).match(self.text, self.position)
        if match is None:
            return None
        self.start, self.position = self.position, match.end()
        return match.group(match.re.groups and 1)

    def expect(self, token: str) -> None:
        if self.take(re.escape(token)) is None:
            self.fail(f"expected '{token}'{self.instead()}")

    def number(self, what: str, most: int) -> int:
        word = self.take(r"[\w]+")
        value = _number(word or "")
        if value is None or value > most:
            self.fail(f"expected {what}", start=word is not None)
        return value

    def finish(self) -> None:
        self.skip()
        if not self.at_end():
            self.fail(f"expected the end of the line{self.instead()}")

    def instead(self) -> str:
        return f", not '{self.text[self.position]}'" if not self.at_end() else ", not the end of the line"

    def fail(self, message: str, *, start: bool = False) -> NoReturn:
        """Raise TextError here, or with `start` at the beginning of what was taken last."""
        raise TextError(self.line, (self.start if start else self.position) + 1, message)


def _number(word: str) -> int | None:
    try:
        return int(word, 0)
    except ValueError:
        return None


_VALUE = r"[^\s,()\[\]!#=]+"
_LABEL = re.compile(r"r\d+\Z")


class _Operands:
    """Reads ops, in one world, where some labels stand for results."""

    __slots__ = ("catalogue", "labels", "lines", "world")

    def __init__(self, catalogue: Catalogue, world: int, labels: Mapping[str, int], lines: list[str]) -> None:
        self.catalogue = catalogue
        self.world = world
        self.labels = labels
        self.lines = lines

    def op(self, scanner: _Scanner) -> Op:
        name = scanner.take(r"[A-Za-z_][\w.]*")
        if name is None:
            scanner.fail(f"expected the name of an op{scanner.instead()}")
        kind = self.catalogue.by_name.get(name)
        if kind is None:
            scanner.fail(_unknown("op", name, self.catalogue.by_name), start=True)
        scanner.expect("(")
        actor = self.actor(scanner)
        values: dict[str, Value] = {}
        while scanner.take(",") is not None:
            field = scanner.take(r"[A-Za-z_]\w*")
            if field is None:
                scanner.fail(f"expected <field>=<value>{scanner.instead()}")
            position = kind.index.get(field)
            if position is None:
                scanner.fail(_unknown(f"field of {name}", field, kind.index), start=True)
            if field in values:
                scanner.fail(f"'{field}' is given twice", start=True)
            scanner.expect("=")
            values[field] = self.value(scanner, field, kind.fields[position].kind)
        scanner.expect(")")
        mangle = self.mangle(scanner, kind)
        ordered = tuple(values.get(each.name, default(each)) for each in kind.fields)
        return Op(kind, actor, ordered, mangle)

    def actor(self, scanner: _Scanner) -> Actor:
        word = scanner.take(r"dom\d+(?:\.\d+)?\b")
        if word is None:
            scanner.fail(f"expected who performs it, as dom1 or dom1.0{scanner.instead()}")
        domain, _, vcpu = word[3:].partition(".")
        actor = Actor(int(domain), int(vcpu or 0))
        world = WORLDS[self.world]
        if actor.domain >= len(world.domains):
            scanner.fail(f"world {world.name} has no dom{actor.domain}", start=True)
        if actor.vcpu >= world.domains[actor.domain].vcpus:
            scanner.fail(f"dom{actor.domain} of world {world.name} has no vCPU {actor.vcpu}", start=True)
        return actor

    def mangle(self, scanner: _Scanner, kind: OpKind) -> Mangle | None:
        parts: dict[str, int] = {}
        while scanner.take("!") is not None:
            name = scanner.take(r"\w+") or ""
            if name not in Mangle._fields:
                scanner.fail(_unknown("mangled part", name, dict.fromkeys(Mangle._fields)), start=bool(name))
            if name in parts:
                scanner.fail(f"'{name}' is given twice", start=True)
            if kind.number is None:
                scanner.fail(f"'{kind.name}' has no argument struct to mangle", start=True)
            scanner.expect("=")
            word = scanner.take(_VALUE)
            if word is None:
                scanner.fail(f"expected a number{scanner.instead()}")
            parts[name] = self.term(scanner, name, word, MANGLE_BITS[Mangle._fields.index(name)], {})
        return Mangle(**parts) if parts else None

    def value(self, scanner: _Scanner, field: str, kind: Kind) -> Value:
        if is_array(kind):
            element = kind.element
            assert element is not None
            if scanner.take(r"\[") is not None:
                return self.elements(scanner, field, element)
        word = scanner.take(_VALUE)
        if word is None:
            expected = "a number" + (" or [" if is_array(kind) else "")
            scanner.fail(f"{field}: expected {expected}{scanner.instead()}")
        return self.scalar(scanner, field, kind, word)

    def elements(self, scanner: _Scanner, field: str, element: Kind) -> tuple[int | Ref, ...]:
        values: list[int | Ref] = []
        if scanner.take(r"\]") is not None:
            return ()
        while True:
            word = scanner.take(_VALUE)
            if word is None:
                scanner.fail(f"{field}: expected a number{scanner.instead()}")
            if len(values) == MAX_ELEMENTS:
                scanner.fail(f"{field}: an array has at most {MAX_ELEMENTS} elements", start=True)
            values.append(self.scalar(scanner, field, element, word))
            if scanner.take(",") is None:
                scanner.expect("]")
                return tuple(values)

    def scalar(self, scanner: _Scanner, field: str, kind: Kind, word: str) -> int | Ref:
        if _LABEL.match(word) and word not in kind.names:
            return self.label(scanner, field, kind, word)
        bits = 8 * kind.width
        if kind.flags:
            value = 0
            for term in word.split("|"):
                value |= self.term(scanner, field, term, bits, kind.names)
            return value
        names = kind.names
        if kind.name == "domain":
            names = {**names, **{f"dom{domain}": domain for domain in range(_DOMAINS)}}
        return self.term(scanner, field, word, bits, names)

    def label(self, scanner: _Scanner, field: str, kind: Kind, word: str) -> Ref:
        index = self.labels.get(word)
        if index is None:
            later = re.compile(rf"\s*{word}\s*=")
            for number, line in enumerate(self.lines[scanner.line - 1 :], start=scanner.line):
                if later.match(line):
                    scanner.fail(f"{field}: {word} is the result of a later op (line {number})", start=True)
            scanner.fail(f"{field}: {word} is the result of no op", start=True)
        if kind.consumes is None:
            scanner.fail(f"{field}: expected a number; it takes no result of an earlier op", start=True)
        return Ref(index)

    def term(self, scanner: _Scanner, field: str, word: str, bits: int, names: Mapping[str, int]) -> int:
        """A symbol, a number, or a base of addresses and an offset from it."""
        if word in names:
            return names[word]
        base, plus, offset = word.partition("+")
        value = next((start for name, start, _ in BASES if name == base), None) if bits == 64 else None
        if value is None:
            value = _number(word)
        elif plus:
            distance = _number(offset)
            value = value + distance if distance is not None else None
        if value is None:
            close = get_close_matches(word, names, n=1)
            hint = f" - did you mean '{close[0]}'?" if close else ""
            if not hint and 0 < len(names) <= 8:
                hint = f"; expected a number or {'|'.join(names)}"
            scanner.fail(f"{field}: bad number '{word}'{hint}", start=True)
        if not -(1 << bits - 1) <= value < 1 << bits:
            scanner.fail(f"{field}: {word} does not fit in {bits} bits", start=True)
        return value & (1 << bits) - 1
