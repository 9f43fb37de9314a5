"""ABI.md: the reference manual of the ABI, rendered from the declarations and the prose in `conventions`."""

import re
from collections.abc import Iterable, Sequence

from hvfuzz.abi import limits, versions
from hvfuzz.abi.declaration import Declaration
from hvfuzz.abi.kinds import Kind
from hvfuzz.abi.layout import Field
from hvfuzz.abi.manual.prose import MODEL_TABLE, device_models, general, other_exits
from hvfuzz.abi.manual.timekeeping import time_and_waiting
from hvfuzz.abi.registry import Abi, Family
from hvfuzz.abi.status import Status


def render(abi: Abi) -> str:
    """The whole document in Markdown. Equal declarations give equal text."""
    tables = (_statuses(), _limits(), _versions(), _index(abi))
    sections = (
        *general(),
        *tables,
        *map(_family, abi.families),
        time_and_waiting(),
        other_exits(),
        _device_models(abi),
    )
    return "\n\n".join(sections) + "\n"


def _device_models(abi: Abi) -> str:
    rows = []
    for model in abi.device_models:
        ports = f"`{model.ports.start:#x}` to `{model.ports.stop - 1:#x}`" if model.ports else ""
        page = f"`{model.page:#x}`" if model.page >= 0 else ""
        registers = ", ".join(f"`{name}` {offset:#x}" for name, offset in model.registers.items())
        rows.append((f"`{model.name}`", model.title, ports, page, registers))
    table = _table(("name", "device", "I/O ports", "page", "registers"), rows)
    return device_models().replace(MODEL_TABLE, table)


# Tables of constants.


def _statuses() -> str:
    rows = ((f"`{status.name}`", str(status.value), f"{status.word:#021_x}", status.meaning) for status in Status)
    return "## Statuses\n\n" + _table(("status", "value", "RAX", "meaning"), rows)


def _limits() -> str:
    rows = (
        (
            str(limit.what),
            f"`{limit.name}`",
            "varies" if limit.value is None else str(limit.value),
            limit.meaning,
        )
        for limit in limits.LIMITS
    )
    return "## Limits\n\nThe call `discovery.limits` returns the limit with number `what`.\n\n" + _table(
        ("what", "limit", "value", "meaning"), rows
    )


def _versions() -> str:
    families = _table(("bit", "family"), ((str(bit), f"`{name}`") for bit, name in enumerate(versions.FAMILIES)))
    features = _table(
        ("bit", "feature", "since"),
        ((str(feature.bit), f"`{feature.name}`", str(feature.since)) for feature in versions.FEATURES),
    )
    return "\n\n".join(
        (
            "## Versions and features",
            f"The ABI has versions {versions.MIN} to {versions.CURRENT}. A domain negotiates its version with"
            " `discovery.version`.\nBefore it uses an optional feature, it asks for it with `discovery.features`.",
            "Page 0 of the features has a bit for each family of calls:",
            families,
            "Page 1 has a bit for each addition of a later version that the domain's version includes:",
            features,
        )
    )


# Calls.


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
    return "## Calls\n\n" + _table(("number", "call", "since", "caller", "purpose"), rows)


def _family(family: Family) -> str:
    parts = [f"## {family.name}"]
    if doc := family.doc.partition("\n\n")[0].strip():
        parts.append(doc)
    parts += [_call(call) for call in family.calls]
    return "\n\n".join(parts)


def _call(call: Declaration) -> str:
    notes = [f"Number {call.number:#04x}, since version {call.since}."]
    if call.privileged:
        notes.append("Privileged: control domain only.")
    if call.long:
        notes.append("Preemptible: the hypervisor may interrupt the call, and resumes it where it stopped.")
    text, checks = _split(call.doc)
    parts = [f"### {_title(call)}", " ".join(notes), text]
    latest = call.layouts[versions.CURRENT]
    if call.fields:
        parts.append(
            _table(
                ("offset", "type", "field", "since", "meaning"),
                (
                    (
                        str(latest.offsets[field.name]),
                        f"u{8 * field.kind.width}",
                        f"`{field.name}`",
                        str(field.since),
                        _meaning(field),
                    )
                    for field in call.fields
                ),
            )
        )
    older = [f"{call.layouts[v].size} at version {v}" for v in range(call.since, versions.CURRENT)]
    older = [each for each in older if not each.startswith(f"{latest.size} ")]
    parts.append("; ".join((f"Struct: {latest.size} bytes", *older)) + ".")
    produced = f" (a `{call.produces}`)" if call.produces else ""
    parts.append(f"Result: {call.result}{produced}." if call.result else "Result: 0.")
    if checks:
        parts += ["Checks, in order:", checks]
    elif call.errors:
        parts.append("Checks fail with: " + ", ".join(f"`{status.name}`" for status in call.errors) + ".")
    return "\n\n".join(parts)


def _split(doc: str) -> tuple[str, str]:
    """A call's docstring in two: its text, and the list of its checks at the end, which may be missing."""
    text, _, checks = doc.partition("\n\n- `")
    return text, f"- `{checks}" if checks else ""


def _first_sentence(doc: str) -> str:
    return re.split(r"(?<=[.:;])\s", doc.replace("\n", " "), maxsplit=1)[0].rstrip(".:;") + "."


def _meaning(field: Field) -> str:
    return _kind(field.kind) + (f"; if omitted, {field.default}" if field.default else "")


def _kind(kind: Kind) -> str:
    words = kind.doc
    if kind.element is not None:
        bound = f", at most {kind.limit}" if kind.limit else ""
        words = f"guest pointer to u{8 * kind.element.width}[]{bound}: {_elements(kind)}"
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


# Markdown.


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; bars within a cell are escaped."""
    return "\n".join((_line(heads), "|" + "---|" * len(heads), *(_line(row) for row in rows)))


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
