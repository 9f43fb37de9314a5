"""Parser of one op in the text form: kind, actor, fields, mangled parts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final

from hvfuzz.abi.boot import DIRECT_MAP, HYPERVISOR_HOLE_END, HYPERVISOR_HOLE_START, WORLDS
from hvfuzz.abi.kinds import Kind
from hvfuzz.guest.format.scanner import BLANKS, Scanner, shown, to_number, unknown
from hvfuzz.guest.program.ops import Catalogue, OpKind
from hvfuzz.guest.program.program import MANGLE_BITS, MAX_ELEMENTS, Actor, Mangle, Op, Ref, Value, default, is_array

BASES: Final = (
    ("DIRECT", DIRECT_MAP, DIRECT_MAP + (1 << 32)),
    ("HOLE", HYPERVISOR_HOLE_START, HYPERVISOR_HOLE_END),
)
"""(Name, start, end) of address ranges written as name+offset: the kernel's direct map, the hypervisor's hole."""
DOMAINS: Final = max(len(world.domains) for world in WORLDS)
"""Most domains of any world; a domain field accepts dom0 to the last of these."""
_VALUE = r"[^\s,()\[\]!#=]+"
_LABEL = re.compile(r"r[0-9]+\Z")


class OpParser:
    """Parses ops of a program in `world`; `labels` are the labels of earlier ops, with their indices."""

    __slots__ = ("catalogue", "labels", "lines", "world")

    def __init__(self, catalogue: Catalogue, world: int, labels: Mapping[str, int], lines: list[str]) -> None:
        self.catalogue = catalogue
        self.world = world
        self.labels = labels
        self.lines = lines

    def op(self, scanner: Scanner) -> Op:
        name = scanner.take(r"[A-Za-z_][\w.]*")
        if name is None:
            scanner.fail(f"expected the name of an op{scanner.found()}")
        kind = self.catalogue.by_name.get(name)
        if kind is None:
            scanner.fail(unknown("op", name, self.catalogue.by_name), start=True)
        scanner.expect("(")
        actor = self.actor(scanner)
        values: dict[str, Value] = {}
        while scanner.take(",") is not None:
            field = scanner.take(r"[A-Za-z_]\w*")
            if field is None:
                scanner.fail(f"expected <field>=<value>{scanner.found()}")
            position = kind.index.get(field)
            if position is None:
                scanner.fail(unknown(f"field of {name}", field, kind.index), start=True)
            if field in values:
                scanner.fail(f"'{field}' is given twice", start=True)
            scanner.expect("=")
            values[field] = self.value(scanner, field, kind.fields[position].kind)
        scanner.expect(")")
        mangle = self.mangle(scanner, kind)
        ordered = tuple(values.get(each.name, default(each)) for each in kind.fields)
        return Op(kind, actor, ordered, mangle)

    def actor(self, scanner: Scanner) -> Actor:
        word = scanner.take(r"dom[0-9]{1,3}(?:\.[0-9]{1,3})?\b")
        if word is None:
            scanner.fail(f"expected an actor, such as dom1 or dom1.0{scanner.found()}")
        domain, _, vcpu = word[3:].partition(".")
        actor = Actor(int(domain), int(vcpu or 0))
        world = WORLDS[self.world]
        if actor.domain >= len(world.domains):
            scanner.fail(f"world {world.name} has no dom{actor.domain}", start=True)
        if actor.vcpu >= world.domains[actor.domain].vcpus:
            scanner.fail(f"dom{actor.domain} of world {world.name} has no vCPU {actor.vcpu}", start=True)
        return actor

    def mangle(self, scanner: Scanner, kind: OpKind) -> Mangle | None:
        parts: dict[str, int] = {}
        while scanner.take("!") is not None:
            name = scanner.take(r"\w+") or ""
            if name not in Mangle._fields:
                scanner.fail(unknown("mangled part", name, dict.fromkeys(Mangle._fields)), start=bool(name))
            if name in parts:
                scanner.fail(f"'{name}' is given twice", start=True)
            if kind.number is None:
                scanner.fail(f"'{kind.name}' has no argument struct to mangle", start=True)
            scanner.expect("=")
            word = scanner.take(_VALUE)
            if word is None:
                scanner.fail(f"expected a number{scanner.found()}")
            parts[name] = self.term(scanner, name, word, MANGLE_BITS[Mangle._fields.index(name)], {})
        return Mangle(**parts) if parts else None

    def value(self, scanner: Scanner, field: str, kind: Kind) -> Value:
        if is_array(kind) and scanner.take(r"\[") is not None:
            return self.elements(scanner, field, kind)
        word = scanner.take(_VALUE)
        if word is None:
            expected = "a number" + (" or [" if is_array(kind) else "")
            scanner.fail(f"{field}: expected {expected}{scanner.found()}")
        return self.scalar(scanner, field, kind, word)

    def elements(self, scanner: Scanner, field: str, kind: Kind) -> tuple[int | Ref, ...]:
        values: list[int | Ref] = []
        if scanner.take(r"\]") is not None:
            return ()
        while True:
            word = scanner.take(_VALUE)
            if word is None:
                scanner.fail(f"{field}: expected a number{scanner.found()}")
            if len(values) == MAX_ELEMENTS:
                scanner.fail(f"{field}: an array has at most {MAX_ELEMENTS} elements", start=True)
            values.append(self.scalar(scanner, field, kind.element_at(len(values)), word))
            if scanner.take(",") is None:
                scanner.expect("]")
                return tuple(values)

    def scalar(self, scanner: Scanner, field: str, kind: Kind, word: str) -> int | Ref:
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
            names = {**names, **{f"dom{domain}": domain for domain in range(DOMAINS)}}
        return self.term(scanner, field, word, bits, names)

    def label(self, scanner: Scanner, field: str, kind: Kind, word: str) -> Ref:
        index = self.labels.get(word)
        if index is None:
            for number, line in enumerate(self.lines[scanner.line - 1 :], start=scanner.line):
                label, equals, _ = line.partition("=")
                if equals and label.strip(BLANKS) == word:
                    scanner.fail(
                        f"{field}: expected the label of an earlier op, found {shown(word)} of line {number}",
                        start=True,
                    )
            scanner.fail(f"{field}: no op has the label {shown(word)}", start=True)
        if kind.consumes is None:
            scanner.fail(f"{field}: expected a number, found the label {shown(word)}", start=True)
        return Ref(index)

    def term(self, scanner: Scanner, field: str, word: str, bits: int, names: Mapping[str, int]) -> int:
        """The value of a symbol, a number, or the name of an address range with or without an offset."""
        if word in names:
            return names[word]
        base, plus, offset = word.partition("+")
        value = next((start for name, start, _ in BASES if name == base), None) if bits == 64 else None
        if value is None:
            value = to_number(word)
        elif plus:
            distance = to_number(offset)
            value = value + distance if distance is not None else None
        if value is None:
            close = get_close_matches(word, names, n=1)
            symbols = f" or {'|'.join(names)}" if 0 < len(names) <= 8 else ""
            hint = f" - did you mean '{close[0]}'?" if close else ""
            scanner.fail(f"{field}: expected a number{symbols}, found '{shown(word)}'{hint}", start=True)
        if not -(1 << bits - 1) <= value < 1 << bits:
            scanner.fail(f"{field}: {shown(word)} does not fit in {bits} bits", start=True)
        return value & (1 << bits) - 1
