"""The JSON Schema of an explanation, derived from its declaration."""

from __future__ import annotations

import types
from typing import Any, Final, get_args, get_origin, get_type_hints

from hvfuzz.explain.judgement.severity import TITLES
from hvfuzz.explain.telling.explanation import Explanation

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_PLAIN: Final = {str: "string", int: "integer", bool: "boolean"}


def explanation_schema() -> dict[str, Any]:
    """The schema of what `hvfuzz explain --json` prints."""
    definitions: dict[str, Any] = {}
    told = _of(Explanation, definitions)
    definitions["Explanation"]["properties"]["severity"]["enum"] = list(TITLES.values())
    return {
        "$schema": DIALECT,
        "title": "hvfuzz explain --json",
        "type": "object",
        "required": ["file", "explanation"],
        "additionalProperties": False,
        "properties": {"file": {"type": "string"}, "explanation": {"oneOf": [told, {"type": "null"}]}},
        "$defs": definitions,
    }


def _of(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a type; that of a tuple with names is added to `definitions`, and referred to."""
    if get_origin(kind) is tuple:
        return {"type": "array", "items": _of(get_args(kind)[0], definitions)}
    if isinstance(kind, types.UnionType):
        return {"oneOf": [_of(each, definitions) for each in get_args(kind)]}
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    name = kind.__name__
    if name not in definitions:
        definitions[name] = {}
        fields = get_type_hints(kind)
        definitions[name] = {
            "type": "object",
            "description": " ".join((kind.__doc__ or "").split()),
            "required": [*fields],
            "additionalProperties": False,
            "properties": {field: _of(hint, definitions) for field, hint in fields.items()},
        }
    return {"$ref": f"#/$defs/{name}"}
