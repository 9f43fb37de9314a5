"""ABI.md: the contract as a document for people, rendered from the declarations."""

import re

from hvfuzz.abi.conventions import other_exits, sections
from hvfuzz.abi.declaration import Declaration
from hvfuzz.abi.kinds import Kind
from hvfuzz.abi.layout import Field
from hvfuzz.abi.markdown import integer, table
from hvfuzz.abi.registry import Abi, Family
from hvfuzz.abi.versions import CURRENT


def render(abi: Abi) -> str:
    """The whole document, Markdown; the same text for the same declarations."""
    parts = [*sections(), _index(abi), *(_family(family) for family in abi.families), other_exits()]
    return "\n\n".join(parts) + "\n"


def _index(abi: Abi) -> str:
    rows = (
        (
            f"{call.number:#04x}",
            f"[`{call.name}`](#{_anchor(call)})",
            str(call.since),
            "control domain" if call.privileged else "any",
            _first_sentence(call.doc),
        )
        for call in abi.calls
    )
    return "## Calls\n\n" + table(("number", "call", "since", "caller", ""), rows)


def _family(family: Family) -> str:
    parts = [f"## {family.name}"]
    if doc := family.doc.partition("\n\n")[0].strip():
        parts.append(doc)
    parts += [_call(call) for call in family.calls]
    return "\n\n".join(parts)


def _call(call: Declaration) -> str:
    notes = [f"Number {call.number:#04x}, since version {call.since}."]
    if call.privileged:
        notes.append("Privileged: the control domain only.")
    if call.long:
        notes.append("Long: it can be preempted and goes on later.")
    parts = [f"### {_title(call)}", " ".join(notes), call.doc]
    latest = call.layouts[CURRENT]
    if call.fields:
        parts.append(
            table(
                ("offset", "type", "field", "since", "meaning"),
                (
                    (
                        str(latest.offsets[field.name]),
                        integer(field.kind.width),
                        f"`{field.name}`",
                        str(field.since),
                        _meaning(field),
                    )
                    for field in call.fields
                ),
            )
        )
    older = [f"{call.layouts[v].size} at version {v}" for v in range(call.since, CURRENT)]
    older = [each for each in older if not each.startswith(f"{latest.size} ")]
    parts.append("; ".join((f"Struct: {latest.size} bytes", *older)) + ".")
    produced = f" (a `{call.produces}`)" if call.produces else ""
    parts.append(f"Result: {call.result}{produced}." if call.result else "Result: 0.")
    if call.errors:
        parts.append("Refused by its own checks with: " + ", ".join(f"`{status.name}`" for status in call.errors) + ".")
    return "\n\n".join(parts)


def _first_sentence(doc: str) -> str:
    return re.split(r"(?<=[.:;])\s", doc.replace("\n", " "), maxsplit=1)[0].rstrip(".:;") + "."


def _meaning(field: Field) -> str:
    return _kind(field.kind) + (f"; if omitted, {field.default}" if field.default else "")


def _kind(kind: Kind) -> str:
    words = kind.doc
    if kind.element is not None:
        bound = f", at most {kind.limit}" if kind.limit else ""
        words = f"guest pointer to {integer(kind.element.width)}[]{bound}: {_elements(kind)}"
        words += f"; {kind.doc}" if kind.doc else ""
    if kind.names:
        symbols = ", ".join(f"{name} = {value:#x}" for name, value in kind.names.items())
        if kind.flags:
            symbols = f"any of {symbols}"
        elif not words:
            symbols = f"one of {symbols}"
        words = f"{words}: {symbols}" if words else symbols
    return words or kind.name


def _elements(kind: Kind) -> str:
    if kind.follow:
        return "(number, argument struct, status, result) for each call"
    if not kind.record:
        return kind.element.doc if kind.element is not None else ""
    record = f"({', '.join(each.doc for each in kind.record)}) for each"
    return ", then ".join((*(each.doc for each in kind.head), record))


def _title(call: Declaration) -> str:
    return f"{call.name} ({call.number:#04x})"


def _anchor(call: Declaration) -> str:
    """The fragment that GitHub gives to the title: lower case, without punctuation, spaces as hyphens."""
    kept = (letter for letter in _title(call).lower() if letter.isalnum() or letter in " -_")
    return "".join(kept).replace(" ", "-")
